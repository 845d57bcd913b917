"""Classifier weights for a backbone: from torchvision's registry, a file or a URL, checked before they are used."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn
from torchvision import models

from detector.configs.zoo import zoo_entry, zoo_names
from detector.export.safetensors import looks_like_safetensors, read_safetensors
from detector.fetch import cached, require_sha256

log = logging.getLogger("detector")


def load_classifier_weights(backbone: nn.Module, weights: str, *, architecture: str, sha256: str | None) -> None:
    """Loads a classifier's state dict into a backbone with a `rename(key)` method, and logs what was loaded.

    `weights` is "imagenet" (torchvision's registry entry of `architecture`), a name of `configs/zoo.yaml`, a path (a
    torch state dict or safetensors), or a URL. Layers behind the
    backbone's cut are dropped; new layers of the backbone (a fully connected tail) keep their initial values.

    Raises:
        ValueError: the file is missing, damaged or has another checksum; or layers that the backbone needs are missing
            or of another shape, all named.
    """
    state, source = _fetch(weights, architecture, sha256)
    renamed: dict[str, Tensor] = {}
    unknown = []
    own = backbone.state_dict()
    for key, value in state.items():
        place = backbone.rename(key)  # type: ignore[operator]
        if place is None or place.endswith("num_batches_tracked"):
            continue
        if place in own:
            renamed[place] = value.float() if value.is_floating_point() else value
        else:
            unknown.append(key)
    # Layers that no classifier brings.
    new = () if getattr(backbone, "native_tail", False) else ("tail.", "top_down.", "fpn.")
    missing = [key for key in own if key not in renamed and not key.startswith(new) and "num_batches" not in key]
    shapes = [
        f"{key}: {tuple(value.shape)} in the file, {tuple(own[key].shape)} here"
        for key, value in renamed.items()
        if value.shape != own[key].shape
    ]
    if missing or unknown or shapes:
        told = [
            f"{len(keys)} {what} (first: {'; '.join(keys[:3])})"
            for what, keys in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
            if keys
        ]
        raise ValueError(
            f"{source} does not fit {architecture}: {', '.join(told)}; "
            "check backbone.width and backbone.norm (gn has no batch norm weights), or set backbone.weights=null"
        )
    backbone.load_state_dict(renamed, strict=False)
    log.info(
        "backbone %s: %d tensors from %s; not needed here: %d; new layers: %s",
        architecture,
        len(renamed),
        source,
        len(state) - len(renamed),
        ", ".join(sorted({key.rpartition(".")[0] for key in own if key.startswith(new)})) or "none",
    )


def _fetch(weights: str, architecture: str, sha256: str | None) -> tuple[dict[str, Tensor], str]:
    """The state dict and where it came from."""
    if weights == "imagenet":
        entry = next(iter(models.get_model_weights(architecture)))  # the first entry is the classic recipe
        return _cached(entry.url, sha256 or _hash_in_name(entry.url)), f"torchvision's {entry}"
    if urlparse(weights).scheme in ("http", "https", "file"):
        return _cached(weights, sha256), weights
    path = Path(weights).expanduser()
    if path.is_file():
        require_sha256(path, sha256)
        return read_classifier(path), str(path)
    named = zoo_entry(weights, "classifier")
    if named is None:
        raise ValueError(
            f"backbone.weights={weights}: no such file; give a path, a URL, imagenet or null, or a name of the table: "
            f"{', '.join(zoo_names('classifier'))}"
        )
    return _cached(named.url, sha256 or named.sha256), f"{weights} ({named.url})"


def _cached(url: str, sha256: str | None) -> dict[str, Tensor]:
    name = Path(urlparse(url).path).name
    if sha256 is None or sha256 != _hash_in_name(url):
        # Many addresses end in model.pth: the name in the cache says which of them it was.
        name = f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}"
    try:
        return read_classifier(cached(url, name, sha256))
    except ValueError as error:
        choices = "give backbone.weights=FILE, or train from scratch with backbone.weights=null"
        raise ValueError(f"{error}, or {choices}") from error


def _hash_in_name(url: str) -> str:
    """The digits in torchvision's file names, the first eight of the sha256: resnet50-0676ba61.pth."""
    return Path(urlparse(url).path).stem.rpartition("-")[2]


def read_classifier(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, a torch file or safetensors. Raises ValueError where it is none."""
    if looks_like_safetensors(path):
        return read_safetensors(path)[0]
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is damaged or not a state dict ({reason}); delete it and fetch it again") from error
    if isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values()):
        return state
    found = f"a dict of {', '.join(map(str, list(state)[:5]))}" if isinstance(state, dict) else type(state).__name__
    raise ValueError(f"{path}: expected a state dict (names to tensors), found {found}; save its state dict alone")
