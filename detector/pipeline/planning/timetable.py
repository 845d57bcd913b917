"""Timetable of a training: the number of steps that fits into the minutes, and the settings that depend on it."""

from __future__ import annotations

from dataclasses import dataclass

from detector.pipeline.planning.rules import Choice
from detector.pipeline.planning.trial import Trial

OVERHEAD = 1.06  # factor on the time of a step, for the loop, the weight average and the log
REPORT = 4.0  # seconds for the report page, the portable model and the end of the program
REPORT_IMAGE = 0.05  # seconds of the report for each test image
RESERVE = 0.02  # share of the budget
EPOCHS = 40  # without a budget
LEAST_IMAGES, MOST_IMAGES = 8_000, 120_000  # limits of the training images over all epochs, without a budget
LEAST_STEPS = 20
EVALUATION_SHARE = 0.04  # share of the training time for evaluations during training


@dataclass(frozen=True, slots=True)
class Timetable:
    """Numbers of steps and evaluations, and durations in seconds."""

    steps: int
    evaluations: int
    evaluating_each: float
    training: float
    evaluating: float  # all evaluations and the report
    total: float  # from the start of the command
    tight: bool  # the budget is too small for LEAST_STEPS

    def __str__(self) -> str:
        return (
            f"{self.steps} steps: about {self.total / 60:.1f} minutes in all "
            f"({self.training / 60:.1f} of training, {self.evaluating / 60:.1f} of evaluation and report)"
        )


def make_timetable(
    trial: Trial,
    *,
    budget: float | None,
    elapsed: float,
    train_images: int,
    test_images: int,
    recall_images: int,
    images_per_step: int,
    steps: int | None,
) -> Timetable:
    """Return the timetable of `steps`, or of the steps that fit into `budget` seconds, of which `elapsed` are used.

    An evaluation runs the network on the test images, and again on `recall_images` of them for the RPN's recall.
    """
    step, evaluation = trial.step * OVERHEAD, trial.image * (test_images + recall_images)
    report = REPORT + REPORT_IMAGE * test_images
    fitted = steps is None and budget is not None
    if steps is None and budget is not None:
        steps = int((budget * (1 - RESERVE) - elapsed - report - evaluation) / step)
    elif steps is None:
        images = min(max(EPOCHS * train_images, LEAST_IMAGES), MOST_IMAGES)
        steps = -(-images // images_per_step)
    # Evaluations during training may take EVALUATION_SHARE of the time.
    extra = max(0, min(4, int(EVALUATION_SHARE * steps * step / max(evaluation, 1e-9))))
    if fitted:
        steps -= -int(-extra * evaluation // step)
    tight = fitted and steps < LEAST_STEPS
    steps = max(steps, LEAST_STEPS) if fitted else steps
    training, evaluating = steps * step, (1 + extra) * evaluation + report
    return Timetable(steps, 1 + extra, evaluation, training, evaluating, elapsed + training + evaluating, tight)


def time_rules(timetable: Timetable, epochs: float) -> list[Choice]:
    """Return the settings that depend on the number of steps. `epochs` is how often they show each image."""
    steps = timetable.steps
    horizon = max(10, steps // 8)
    share = ", an eighth of all" if horizon == steps // 8 else ""
    every = -(-steps // timetable.evaluations) if timetable.evaluations > 1 else 0
    return [
        Choice("trainer.max_steps", steps, f"{epochs:.1f} epochs in about {timetable.total / 60:.1f} minutes"),
        Choice("schedule.warmup_steps", max(1, min(200, steps // 10)), "a tenth of the steps, at most 200"),
        Choice("trainer.ema_decay", round(1 - 1 / horizon, 5), f"averages the last {horizon} steps{share}"),
        Choice("trainer.eval_every", every, "evaluations during training may take 4 % of the time"),
        Choice("trainer.checkpoint_every", max(10, min(500, steps // 10)), "a crash loses at most a tenth of the run"),
        Choice("trainer.log_every", max(1, min(20, steps // 50)), "at least fifty points on the curves"),
    ]
