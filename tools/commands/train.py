"""`detector train`: a recipe's training, or a planned one that ends with a report and a portable model."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from detector.configs import schema
from detector.engine.distributed import is_main, world_size
from detector.engine.trainer import Outcome
from detector.pipeline.data import Data
from detector.pipeline.planning.planner import Plan, plan_run, settle
from detector.pipeline.run_folder import RunFolder, all_processes, logging_to, open_run
from detector.pipeline.training import run_training
from detector.tools.commands.analyze import run_analysis
from detector.tools.commands.export import run_export

log = logging.getLogger("detector")

LONG = 60  # minutes from which on a training says how to have a shorter one


def run_planned_training(folder: str, words: Sequence[str], *, started: float) -> Outcome:
    """Plans, trains and reports on the photographs in `folder`; `words` are the other settings of the command line.

    `started` is `time.monotonic()` when the command began: `trainer.max_minutes` counts from there.
    """
    config, plan = plan_run(folder, words)
    with all_processes(config.trainer):
        run = open_run(config.output_dir, "train")
        with logging_to(run.path / "log.txt"):
            log.info("plan for %s on %s\n%s", folder, plan.machine, plan.table())

            def settled(config: schema.Config, data: Data, device: torch.device) -> schema.Config:
                config, final = settle(plan, config, words, data, device, time.monotonic() - started)
                announce(final, config)
                if is_main():
                    run.write_json("plan.json", final.to_json())
                return config

            outcome = run_training(config, run, None, settle=settled, started=started)
            if outcome is Outcome.done and is_main():
                finish(config, run)
    return outcome


def announce(plan: Plan, config: schema.Config) -> None:
    """Says how long the training will take, and what the options are where that is long or short."""
    timetable = plan.timetable
    assert timetable is not None
    log.info("%s", timetable)
    if config.trainer.max_minutes is None and timetable.total > 60 * LONG:
        log.warning("that is %.1f hours: trainer.max_minutes=60 makes the best of an hour", timetable.total / 3600)
    if timetable.tight:
        log.warning(
            "trainer.max_minutes=%g leaves time for hardly any step on this machine: give it more",
            config.trainer.max_minutes,
        )
    if world_size() > 1:
        log.warning("the time was measured on one process; %d share the work", world_size())


def finish(config: schema.Config, run: RunFolder) -> None:
    """The report page and the portable model of a finished run, and the next three commands."""
    here = replace(config, detections=str(run.path), weights=None)
    run_analysis(here, run)
    model = run.path / "model.safetensors"
    run_export(
        replace(config, weights=str(run.path), export=schema.ExportConfig(output=str(model))),
    )
    log.info(
        "next\n  detector predict weights=%s images=FOLDER\n  detector eval weights=%s\n  tensorboard --logdir %s",
        model,
        run.path,
        Path(run.tensorboard),
    )
