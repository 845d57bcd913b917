"""Loading of trained detectors from a checkpoint of training or from a portable model."""

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
from detector.pipeline.resume import with_own_split

RUN_SETTINGS = ("output_dir", "resume", "weights", "detections", "images")  # settings of a run, not of the model


@dataclass(frozen=True, slots=True)
class SavedModel:
    """Content of a model's file."""

    config: dict[str, Any]  # plain values; RUN_SETTINGS are None
    classes: tuple[str, ...]
    weights: dict[str, Tensor]
    provenance: dict[str, Any]  # step, versions, scores if known


@dataclass(frozen=True, slots=True)
class Model:
    """A detector that is ready to detect."""

    detector: Detector  # in evaluation mode, on its device
    classes: tuple[str, ...]
    step: int


def read_model(path: Path, *, average: bool | None = None) -> SavedModel:
    """Read the model at `path`: a checkpoint, a run's folder, a portable file or a name. No code in it is executed.

    If a checkpoint has moving averages, `average` selects them (True) or the raw weights (False). None selects the
    averages, from which the scores were computed. Raises ValueError if the file is missing, damaged, in another format
    or of a newer version, or has no averages although `average` is True.
    """
    path = resolve_path(path)
    if path.is_file() and looks_like_safetensors(path):
        portable = read_portable(path)
        config = _without_run_settings(portable.config)
        return SavedModel(config, portable.classes, portable.weights, portable.provenance)
    content = load_checkpoint(path)
    provenance: dict[str, Any] = {
        "step": int(content["step"]),
        "versions": {key: content["versions"][key] for key in ("python", "torch", "torchvision", "commit")},
        "metrics": _metrics(path, int(content["step"])),
    }
    averaged = content.get("average") is not None
    if average and not averaged:
        raise ValueError(f"{path} has no averaged weights (trainer.ema_decay was null); remove export.average")
    weights = content["model"] if average is False else evaluated_weights(content)
    if averaged:
        provenance["weights"] = "raw" if average is False else "average"
    return SavedModel(_without_run_settings(content["config"]), tuple(content["classes"]), weights, provenance)


def read_model_config(path: Path) -> dict[str, Any]:
    """Return the config of `read_model` with the split beside the model. Of a portable file only the header is read."""
    path = resolve_path(path)
    if path.is_file() and looks_like_safetensors(path):
        return with_own_split(_without_run_settings(read_config(path)), path.parent)
    config = _without_run_settings(load_checkpoint(path)["config"])
    if path.is_dir():
        return with_own_split(config, path)
    return with_own_split(config, path.parent.parent) if path.parent.name == "checkpoints" else config


def read_prediction_config(path: Path) -> dict[str, Any]:
    """Return the config with precision fp32, because bf16 gives other boxes than the exported model."""
    config = read_model_config(path)
    return {**config, "trainer": {**config["trainer"], "precision": "fp32"}}


def resolve_path(path: Path) -> Path:
    """Return `path` if it exists. For a name in the table of models return its file, downloaded to the cache."""
    entry = None if path.exists() else zoo_entry(str(path), "model")
    return path if entry is None else cached(entry.url, f"{path}-{entry.sha256[:8]}.safetensors", entry.sha256)


def load_model(path: Path, config: schema.Config, device: torch.device) -> Model:
    """Load the detector at `path` and build it from `config`, which is the model's config, perhaps with overrides.

    Raises ValueError if the file has no model or does not fit the config.
    """
    saved = read_model(path)
    detector = build_detector(config, len(saved.classes))
    load_weights(detector, saved.weights, str(path))
    return Model(detector.to(device).eval(), saved.classes, int(saved.provenance.get("step", 0)))


def start_from(path: Path, detector: Detector, classes: tuple[str, ...], skip: Sequence[str]) -> None:
    """Load the weights of a model's file into `detector` for a new training. Modules in `skip` keep their weights.

    A new head gets new target statistics, so `head` in `skip` includes `coder`.
    Raises ValueError if the file does not fit, or has other classes and `head` is not in `skip`.
    """
    saved = read_model(path)
    known = saved.classes
    if known != classes and "head" not in skip:
        raise ValueError(
            f"{path} has {len(known)} classes ({', '.join(known)}), the dataset has {len(classes)} "
            f"({', '.join(classes)}): start a new head with weights_skip=[head], or set dataset.classes to the "
            "checkpoint's list"
        )
    load_weights(detector, saved.weights, str(path), skip=[*skip, "coder"] if "head" in skip else skip)


def require_classes(model: Model, classes: tuple[str, ...]) -> None:
    """Raise ValueError unless the model was trained on these classes, in this order."""
    if model.classes != classes:
        raise ValueError(
            f"the model has {len(model.classes)} classes ({', '.join(model.classes)}), the dataset has "
            f"{len(classes)} ({', '.join(classes)}); set dataset.classes to the model's list, or train on this dataset"
        )


def _without_run_settings(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, **dict.fromkeys(RUN_SETTINGS)}


def _metrics(path: Path, step: int) -> dict[str, Any]:
    """Return the scores in metrics.json of the checkpoint's run, or an empty dict if they are of another step."""
    file = (path if path.is_dir() else path.parent.parent) / "metrics.json"
    try:
        found = json.loads(file.read_text())
        return {key: value for key, value in found.items() if key != "run"} if found["step"] == step else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
