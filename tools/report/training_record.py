"""The record of a training run, read from its TensorBoard files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

Curve = list[tuple[int, float]]  # (step, value)

LOSS, SPEED, LEARNING_RATE = "train/loss", "speed/images_per_s", "train/lr"


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """Curves over the steps, and the plan if there is one."""

    losses: dict[str, Curve]  # the total first, then its parts
    scores: dict[str, Curve]  # protocol -> mAP
    learning_rate: Curve
    images_per_s: Curve
    minutes: float | None
    plan: list[tuple[str, str, str]]  # key, value, reason


def read_training(folder: Path) -> TrainingRecord | None:
    """Return the record of the run in `folder`; None if it has no curves, for example a folder of result files."""
    if not list((folder / "tensorboard").glob("events.out.tfevents.*")):
        return None
    # TensorBoard is loaded only for a run that has curves.
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 1})
    events.Reload()
    names: list[str] = events.Tags()["scalars"]
    curves = {name: [(event.step, event.value) for event in events.Scalars(name)] for name in names}
    parts = [name for name in names if name.startswith("train/loss_")]
    metrics = folder / "metrics.json"
    return TrainingRecord(
        losses={name.removeprefix("train/"): curves[name] for name in (LOSS, *parts) if name in curves},
        scores={name.removesuffix("/mAP"): curves[name] for name in names if name.endswith("/mAP")},
        learning_rate=curves.get(LEARNING_RATE, []),
        images_per_s=curves.get(SPEED, []),
        minutes=json.loads(metrics.read_text()).get("minutes") if metrics.is_file() else None,
        plan=_planned(folder / "plan.json"),
    )


def _planned(path: Path) -> list[tuple[str, str, str]]:
    if not path.is_file():
        return []
    return [
        (choice["key"], json.dumps(choice["value"]), choice["reason"])
        for choice in json.loads(path.read_text())["choices"]
    ]
