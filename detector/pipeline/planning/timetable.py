"""How many steps the minutes allow, and what depends on their number."""

from __future__ import annotations

from dataclasses import dataclass

from detector.pipeline.planning.rules import Choice
from detector.pipeline.planning.trial import Trial

OVERHEAD = 1.06  # of the loop, the averaged weights and the log over the bare step
REPORT = 4.0  # seconds for the report page, the portable model and the program's end
REPORT_IMAGE = 0.05  # seconds of the report for each test image
RESERVE = 0.02  # of the budget
EPOCHS = 40  # without a budget
LEAST_IMAGES, MOST_IMAGES = 8_000, 120_000  # that a training without a budget sees
LEAST_STEPS = 20
EVALUATING = 0.04  # share of the training time that evaluations in between may take


@dataclass(frozen=True, slots=True)
class Timetable:
    """Seconds, from the start of the command."""

    steps: int
    evaluations: int
    evaluating_each: float
    training: float
    evaluating: float  # all evaluations and the report
    total: float
    tight: bool  # the budget holds hardly any step

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
    images_per_step: int,
    steps: int | None,
) -> Timetable:
    """The steps that fit into `budget` seconds, of which `elapsed` are gone; `steps` where they are given."""
    step, evaluation = trial.step * OVERHEAD, trial.image * test_images
    report = REPORT + REPORT_IMAGE * test_images
    fitted = steps is None and budget is not None
    if steps is None and budget is not None:
        steps = int((budget * (1 - RESERVE) - elapsed - report - evaluation) / step)
    elif steps is None:
        images = min(max(EPOCHS * train_images, LEAST_IMAGES), MOST_IMAGES)
        steps = -(-images // images_per_step)
    # Evaluations in between are worth a few percent of the time.
    looks = max(0, min(4, int(EVALUATING * steps * step / max(evaluation, 1e-9))))
    if fitted:
        steps -= -int(-looks * evaluation // step)
    tight = fitted and steps < LEAST_STEPS
    steps = max(steps, LEAST_STEPS) if fitted else steps
    training, evaluating = steps * step, (1 + looks) * evaluation + report
    return Timetable(steps, 1 + looks, evaluation, training, evaluating, elapsed + training + evaluating, tight)


def time_rules(timetable: Timetable, train_images: int, images_per_step: int) -> list[Choice]:
    """The settings that follow from the number of steps."""
    steps = timetable.steps
    epochs = steps * images_per_step / train_images
    horizon = max(10, steps // 8)
    every = -(-steps // timetable.evaluations) if timetable.evaluations > 1 else 0
    return [
        Choice("trainer.max_steps", steps, f"{timetable}; {epochs:.1f} epochs"),
        Choice("schedule.warmup_steps", max(1, min(200, steps // 10)), "a tenth of the steps, at most 200"),
        Choice("trainer.ema_decay", round(1 - 1 / horizon, 5), f"averages the last {horizon} steps, an eighth of all"),
        Choice("trainer.eval_every", every, "evaluations in between may take 4 % of the time"),
        Choice("trainer.checkpoint_every", max(10, min(500, steps // 10)), "a stop costs a tenth of the run at most"),
        Choice("trainer.log_every", max(1, min(20, steps // 50)), "fifty points on the curves at least"),
    ]
