"""`detector plan`: print the plan of `train data=FOLDER`, with reasons and expected time, without training."""

from __future__ import annotations

import time
from collections.abc import Sequence

from detector.pipeline.data import open_data
from detector.pipeline.planned_training import log_duration, log_small_objects
from detector.pipeline.planning.planner import fit_steps, plan_run
from detector.pipeline.run_folder import logging_to
from detector.pipeline.state import initialise, new_detector
from detector.pipeline.training import prepare_device


def print_plan(folder: str, words: Sequence[str]) -> None:
    """Print every planned setting for training on the photographs in `folder`, one per line, with its reason."""
    started = time.monotonic()
    config, plan = plan_run(folder, words)
    with logging_to(None):
        device = prepare_device(config.trainer)
        data = open_data(config, None)
        detector = new_detector(config, data, device)
        initialise(detector, config, data)
        config, plan = fit_steps(plan, config, words, data, detector, device, time.monotonic() - started)
        print(f"plan for {folder} on {plan.machine}\n{plan.table()}")
        log_small_objects(plan, config)
        log_duration(plan, config)
