"""Planned training, from a folder of photographs to a finished run: plan, time a real step, train."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from detector.build import learning_rate_factor
from detector.configs import schema
from detector.configs.groups import to_plain
from detector.datasets.splits import Split, write_split
from detector.engine.distributed import is_main, world_size
from detector.engine.trainer import Outcome, PaceControl, TrainingState
from detector.model import Detector
from detector.pipeline.data import Data
from detector.pipeline.planning.pace import Pace
from detector.pipeline.planning.planner import Plan, fit_steps, plan_run, table_of
from detector.pipeline.planning.timetable import RESERVE
from detector.pipeline.run_folder import PLAN, SPLIT, RunFolder, all_processes
from detector.pipeline.training import run_training
from detector.pipeline.training_folder import training_run

log = logging.getLogger("detector")

LONG = 60  # minutes; a longer training logs how to limit the time
SMALL = 8  # pixels of the network's input: one cell of the finest map

# Called in the main process after a training that was not interrupted, with its folder.
Finish = Callable[[RunFolder], None]


def run_planned_training(
    folder: str, words: Sequence[str], *, started: float, finish: Finish | None = None
) -> tuple[Outcome, RunFolder]:
    """Plan and train on the photographs in `folder`. `words` are the other settings, as on a command line.

    `started` is `time.monotonic()` at the start of the command. `trainer.max_minutes` counts from it.
    """
    config, plan = plan_run(folder, words)
    with all_processes(config.trainer), training_run(config, config.output_dir, new=True) as run:
        log.info("plan for %s on %s\n%s", folder, plan.machine, plan.table())
        log_small_objects(plan, config)
        config = keep_split(config, plan.split, run)

        def plan_steps(
            config: schema.Config, data: Data, detector: Detector, device: torch.device
        ) -> tuple[schema.Config, PaceControl | None]:
            config, final = fit_steps(plan, config, words, data, detector, device, time.monotonic() - started)
            log_duration(final, config)
            log.info("the settings for so many steps\n%s", table_of(final.choices[len(plan.choices) :]))
            if is_main():
                run.write_json(PLAN, final.to_json())
            return config, make_pace(final, config, run, started)

        outcome = run_training(config, run, None, plan_steps=plan_steps, started=started)
        if outcome is Outcome.done and is_main() and finish is not None:
            finish(run)
    return outcome, run


def keep_split(config: schema.Config, split: Split | None, run: RunFolder) -> schema.Config:
    """Store the split of a folder in the run, so that pictures added later do not change it. Return the config."""
    dataset = config.dataset
    if split is None or not isinstance(dataset, schema.AutoDatasetConfig) or dataset.split_file is not None:
        return config
    if is_main():
        write_split(run.path / SPLIT, split)
    return replace(config, dataset=replace(dataset, split_file=str(run.path / SPLIT)))


def make_pace(plan: Plan, config: schema.Config, run: RunFolder, started: float) -> Pace | None:
    """Return the control that keeps a training within its minutes; None if its steps were not fitted to minutes."""
    minutes, timetable = config.trainer.max_minutes, plan.timetable
    if minutes is None or timetable is None or "trainer.max_steps" in plan.set_by_user:
        return None

    def on_change(state: TrainingState, steps: int) -> None:
        new_config = replace(config, trainer=replace(config.trainer, max_steps=steps))
        factor = learning_rate_factor(new_config, steps)
        state.schedule.lr_lambdas = [factor] * len(state.schedule.lr_lambdas)
        state.about["config"] = to_plain(new_config)
        if is_main():
            run.write_config(new_config)
            run.write_json(PLAN, plan.with_steps(steps).to_json())

    evaluation = timetable.evaluating_each
    return Pace(
        deadline=started + 60 * minutes * (1 - RESERVE),
        final_seconds=timetable.evaluating - (timetable.evaluations - 1) * evaluation,
        evaluation_seconds=evaluation,
        eval_every=config.trainer.eval_every,
        on_change=on_change,
    )


def log_small_objects(plan: Plan, config: schema.Config) -> None:
    """Warn about objects that the network will hardly see, with a size that helps and what it costs."""
    size, side = config.input.test_short_side, plan.data.smallest_side
    if side * size < SMALL:
        needed = -(-math.ceil(SMALL / side) // 16) * 16
        log.warning(
            "at input.test_short_side=%d half of the objects of %s have a side below %.1f pixels, too small to detect; "
            "input.test_short_side=%d gives them %d pixels, and a step then takes about %.0f times as long",
            size, plan.data.smallest_class, side * size, needed, SMALL, (needed / size) ** 2,
        )  # fmt: skip


def log_duration(plan: Plan, config: schema.Config) -> None:
    """Log how long the training will take, and what to do if the time is very long or too short."""
    timetable = plan.timetable
    assert timetable is not None
    log.info("%s", timetable)
    if config.trainer.max_minutes is None and timetable.total > 60 * LONG:
        log.warning(
            "that is %.1f hours; to train for one hour, set trainer.max_minutes=60",
            timetable.total / 3600,
        )
    if "trainer.max_steps" in plan.set_by_user and timetable.total > 60 * (config.trainer.max_minutes or math.inf):
        log.warning(
            "trainer.max_steps=%d takes longer than trainer.max_minutes=%g, which ends the training at a high learning "
            "rate; without trainer.max_steps the plan fits the steps to the minutes",
            config.trainer.max_steps,
            config.trainer.max_minutes,
        )
    if timetable.tight:
        log.warning(
            "trainer.max_minutes=%g is enough for only a few steps on this machine; increase it",
            config.trainer.max_minutes,
        )
    if world_size() > 1:
        log.warning("the time was measured with one process; %d processes share the work", world_size())
