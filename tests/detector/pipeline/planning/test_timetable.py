"""The number of steps that fit into a time budget."""

import pytest

from detector.pipeline.planning.timetable import LEAST_STEPS, MOST_IMAGES, make_timetable, time_rules
from detector.pipeline.planning.trial import Trial

TRIAL = Trial(step=0.5, image=0.05, spent=10.0)
SPLITS = {"train_images": 100, "test_images": 40, "recall_images": 20, "images_per_step": 2}


@pytest.mark.parametrize("budget", [120.0, 600.0, 3600.0])
def test_the_budget_is_used_but_not_exceeded(budget: float) -> None:
    table = make_timetable(TRIAL, budget=budget, elapsed=20.0, steps=None, **SPLITS)
    assert 0.9 * budget < table.total <= budget
    assert not table.tight


def test_the_total_includes_all_evaluations() -> None:
    table = make_timetable(TRIAL, budget=3600.0, elapsed=0.0, steps=None, **SPLITS)
    assert table.evaluations == 5
    assert table.evaluating_each == pytest.approx((40 + 20) * 0.05), "the RPN's recall runs the network again"
    assert table.evaluating >= 5 * table.evaluating_each


def test_expensive_evaluations_run_once() -> None:
    table = make_timetable(Trial(step=0.5, image=1.0, spent=0.0), budget=300.0, elapsed=0.0, steps=None, **SPLITS)
    assert table.evaluations == 1


def test_a_budget_that_is_too_small_still_trains_and_is_marked_tight() -> None:
    table = make_timetable(TRIAL, budget=15.0, elapsed=14.0, steps=None, **SPLITS)
    assert table.tight
    assert table.steps == LEAST_STEPS


def test_without_a_budget_epochs_set_the_number_of_steps() -> None:
    few = make_timetable(TRIAL, budget=None, elapsed=0.0, steps=None, **SPLITS)
    many = make_timetable(TRIAL, budget=None, elapsed=0.0, steps=None, **{**SPLITS, "train_images": 10**6})
    assert few.steps * 2 >= 40 * 100
    assert many.steps * 2 == MOST_IMAGES


def test_given_steps_are_kept() -> None:
    assert make_timetable(TRIAL, budget=None, elapsed=0.0, steps=77, **SPLITS).steps == 77


@pytest.mark.parametrize(
    ("steps", "warmup", "averaged", "log_every"), [(20, 2, 10, 1), (200, 20, 25, 4), (20000, 200, 2500, 20)]
)
def test_settings_derived_from_the_steps(steps: int, warmup: int, averaged: int, log_every: int) -> None:
    table = make_timetable(TRIAL, budget=None, elapsed=0.0, steps=steps, **SPLITS)
    values = {choice.key: choice.value for choice in time_rules(table, 0.02 * table.steps)}
    assert values["trainer.max_steps"] == steps
    assert values["schedule.warmup_steps"] == warmup
    assert values["trainer.ema_decay"] == pytest.approx(1 - 1 / averaged, abs=5e-6)
    assert 0 <= values["trainer.eval_every"] <= steps
    assert values["trainer.log_every"] == log_every
