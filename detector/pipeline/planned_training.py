"""From a folder of photographs to a finished run: plan, time a real step, train."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import torch

from detector.configs import schema
from detector.engine.distributed import is_main, world_size
from detector.engine.trainer import Outcome
from detector.pipeline.data import Data
from detector.pipeline.planning.planner import Plan, plan_run, settle
from detector.pipeline.run_folder import RunFolder, all_processes, logging_to, open_run
from detector.pipeline.training import run_training

log = logging.getLogger("detector")

LONG = 60  # minutes from which on a training says how to have a shorter one

# Called in the main process after a training that was not interrupted, with its config and folder.
Finish = Callable[[schema.Config, RunFolder], None]


def run_planned_training(
    folder: str, words: Sequence[str], *, started: float, finish: Finish | None = None
) -> tuple[Outcome, RunFolder]:
    """Plans and trains on the photographs in `folder`; `words` are the other settings, as a command line has them.

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
            if outcome is Outcome.done and is_main() and finish is not None:
                finish(config, run)
    return outcome, run


def announce(plan: Plan, config: schema.Config) -> None:
    """Says how long the training will take, and what to do where that is long or short."""
    timetable = plan.timetable
    assert timetable is not None
    log.info("%s", timetable)
    if config.trainer.max_minutes is None and timetable.total > 60 * LONG:
        log.warning(
            "that is %.1f hours; with trainer.max_minutes=60 it is the best detector that an hour can make",
            timetable.total / 3600,
        )
    if timetable.tight:
        log.warning(
            "trainer.max_minutes=%g leaves time for hardly any step on this machine: give it more",
            config.trainer.max_minutes,
        )
    if world_size() > 1:
        log.warning("the time was measured on one process; %d share the work", world_size())
