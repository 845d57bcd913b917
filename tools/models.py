"""A trained detector from its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from detector.build import build_detector
from detector.configs import schema
from detector.engine.checkpoint import load_checkpoint, load_weights
from detector.model import Detector


@dataclass(frozen=True, slots=True)
class Model:
    detector: Detector  # in evaluation mode, on its device
    classes: tuple[str, ...]
    step: int


def load_model(path: Path, config: schema.Config, device: torch.device) -> Model:
    """The detector of a checkpoint under `config` (the checkpoint's own, perhaps with overrides).

    Raises ValueError where the file is not a checkpoint or does not fit the config.
    """
    content = load_checkpoint(path)
    detector = build_detector(config, len(content["classes"]))
    load_weights(detector, content["model"], str(path))
    return Model(detector.to(device).eval(), tuple(content["classes"]), int(content["step"]))


def require_classes(model: Model, classes: tuple[str, ...]) -> None:
    """Raises ValueError unless the model was trained on these classes, in this order."""
    if model.classes != classes:
        raise ValueError(
            f"the model knows {len(model.classes)} classes ({', '.join(model.classes)}), the dataset has "
            f"{len(classes)} ({', '.join(classes)}); give the model's list in dataset.classes, or train on this dataset"
        )
