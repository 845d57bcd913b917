"""A trained detector from its file: a checkpoint of training, or a portable model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detector.build import build_detector
from detector.configs import schema
from detector.configs.zoo import zoo_entry
from detector.engine.checkpoint import load_checkpoint, load_weights
from detector.engine.ema import evaluated_weights
from detector.export.portable import read_config, read_portable
from detector.export.safetensors import looks_like_safetensors
from detector.fetch import cached
from detector.model import Detector

RUN_SETTINGS = ("output_dir", "resume", "weights", "detections", "images")  # of one run, not of the model


@dataclass(frozen=True, slots=True)
class SavedModel:
    """What is in the file."""

    config: dict[str, Any]  # plain values, without those of the run that made it
    classes: tuple[str, ...]
    weights: dict[str, Tensor]
    provenance: dict[str, Any]  # step, versions, figures if known


@dataclass(frozen=True, slots=True)
class Model:
    detector: Detector  # in evaluation mode, on its device
    classes: tuple[str, ...]
    step: int


def read_model(path: Path, *, average: bool | None = None) -> SavedModel:
    """The model at `path`: a checkpoint, a run's folder, a portable file or a name. Nothing in the file is executed.

    Of a checkpoint with moving averages `average` takes these (True) or the raw weights (False); None takes those that
    its figures are of, the averages. Raises ValueError where the file is missing, damaged, foreign or newer, or has no
    averages.
    """
    path = located(path)
    if path.is_file() and looks_like_safetensors(path):
        portable = read_portable(path)
        return SavedModel(_own(portable.config), portable.classes, portable.weights, portable.provenance)
    content = load_checkpoint(path)
    provenance: dict[str, Any] = {
        "step": int(content["step"]),
        "versions": {key: content["versions"][key] for key in ("python", "torch", "torchvision", "commit")},
        "metrics": _metrics(path, int(content["step"])),
    }
    averaged = content.get("average") is not None
    if average and not averaged:
        raise ValueError(f"{path} has no averaged weights (trainer.ema_decay was null); leave export.average out")
    weights = content["model"] if average is False else evaluated_weights(content)
    if averaged:
        provenance["weights"] = "raw" if average is False else "average"
    return SavedModel(_own(content["config"]), tuple(content["classes"]), weights, provenance)


def read_model_config(path: Path) -> dict[str, Any]:
    """The config of the model at `path`, as `read_model` has it; of a portable file only the header is read."""
    path = located(path)
    if path.is_file() and looks_like_safetensors(path):
        return _own(read_config(path))
    return _own(load_checkpoint(path)["config"])


def read_prediction_config(path: Path) -> dict[str, Any]:
    """As `read_model_config`, in fp32: in bf16 a model gives other boxes than its exported file."""
    config = read_model_config(path)
    return {**config, "trainer": {**config["trainer"], "precision": "fp32"}}


def located(path: Path) -> Path:
    """`path` itself; for a name of the table of models that file in the cache, fetched if need be."""
    entry = None if path.exists() else zoo_entry(str(path), "model")
    return path if entry is None else cached(entry.url, f"{path}-{entry.sha256[:8]}.safetensors", entry.sha256)


def load_model(path: Path, config: schema.Config, device: torch.device) -> Model:
    """The detector of a model's file under `config` (the model's own, perhaps with overrides).

    Raises ValueError where the file holds no model or does not fit the config.
    """
    saved = read_model(path)
    detector = build_detector(config, len(saved.classes))
    load_weights(detector, saved.weights, str(path))
    return Model(detector.to(device).eval(), saved.classes, int(saved.provenance.get("step", 0)))


def start_from(path: Path, detector: Detector, classes: tuple[str, ...], skip: Sequence[str]) -> None:
    """Weights of a model's file for a new training; modules in `skip` keep the weights that they have.

    A head that starts anew gets new target statistics too, so `head` stands for `coder` as well.
    Raises ValueError where the file does not fit, or knows other classes and its head was not to be skipped.
    """
    saved = read_model(path)
    known = saved.classes
    if known != classes and "head" not in skip:
        raise ValueError(
            f"{path} knows {len(known)} classes ({', '.join(known)}), the dataset has {len(classes)} "
            f"({', '.join(classes)}): weights_skip=[head] starts a new head; or give the checkpoint's list in "
            "dataset.classes"
        )
    load_weights(detector, saved.weights, str(path), skip=[*skip, "coder"] if "head" in skip else skip)


def require_classes(model: Model, classes: tuple[str, ...]) -> None:
    """Raises ValueError unless the model was trained on these classes, in this order."""
    if model.classes != classes:
        raise ValueError(
            f"the model knows {len(model.classes)} classes ({', '.join(model.classes)}), the dataset has "
            f"{len(classes)} ({', '.join(classes)}); give the model's list in dataset.classes, or train on this dataset"
        )


def _own(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, **dict.fromkeys(RUN_SETTINGS)}


def _metrics(path: Path, step: int) -> dict[str, Any]:
    """The figures that lie in a checkpoint's run, if they are those of this very step."""
    file = (path if path.is_dir() else path.parent.parent) / "metrics.json"
    try:
        found = json.loads(file.read_text())
        return {key: value for key, value in found.items() if key != "run"} if found["step"] == step else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
