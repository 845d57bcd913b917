"""Classifier weights for a backbone: from torchvision's registry, a file or a URL, checked before they are used."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any, Protocol
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from torch import Tensor, nn
from torchvision import models

log = logging.getLogger("detector")


class Renaming(Protocol):
    def rename(self, key: str) -> str | None: ...


def load_classifier_weights(backbone: nn.Module, weights: str, *, architecture: str, sha256: str | None) -> None:
    """Loads a classifier's state dict into a backbone with a `rename(key)` method, and logs what was loaded.

    `weights` is "imagenet" (torchvision's registry entry of `architecture`), a path, or a URL. Layers behind the
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
    new = _layers_of_its_own(backbone)
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
    log.info("backbone %s: %d tensors from %s", architecture, len(renamed), source)


def _layers_of_its_own(backbone: nn.Module) -> tuple[str, ...]:
    """Prefixes of the tensors that no classifier brings."""
    return () if getattr(backbone, "native_tail", False) else ("tail.",)


def _fetch(weights: str, architecture: str, sha256: str | None) -> tuple[dict[str, Tensor], str]:
    if weights == "imagenet":
        entry = next(iter(models.get_model_weights(architecture)))  # the first entry is the classic recipe
        return _download(entry.url, None, "its name"), f"torchvision's {entry}"
    if urlparse(weights).scheme in ("http", "https", "file"):
        return _download(weights, sha256, "backbone.weights_sha256"), weights
    path = Path(weights)
    if not path.is_file():
        raise ValueError(f"backbone.weights={weights}: no such file; give a path, a URL, imagenet or null")
    if sha256 is not None:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != sha256:
            raise ValueError(f"{path} has sha256 {found}, expected {sha256} (backbone.weights_sha256); fetch it again")
    return _read(path), str(path)


def _download(url: str, sha256: str | None, checked_by: str) -> dict[str, Tensor]:
    """The file at `url`, kept in torch's hub folder; written under its name only when whole and of the right hash."""
    name = Path(urlparse(url).path).name
    place = Path(torch.hub.get_dir()) / "checkpoints" / name
    prefix = sha256 or (name.rpartition("-")[2].partition(".")[0] if checked_by == "its name" else None)
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(place), prefix, progress=True)
        except (URLError, OSError, RuntimeError) as error:
            raise ValueError(
                f"cannot fetch {url} ({error}); fetch it by other means and set backbone.weights=PATH, "
                f"or put it at {place}, or train from random weights with backbone.weights=null"
            ) from error
    return _read(place)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is damaged or not a state dict ({reason}); fetch it again") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: expected a state dict (names to tensors), found {type(state).__name__}")
    return state
