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

log = logging.getLogger("detector")


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
    new = () if getattr(backbone, "native_tail", False) else ("tail.",)  # layers that no classifier brings
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
        name = Path(urlparse(entry.url).path).name
        hash_in_name = name.rpartition("-")[2].partition(".")[0]  # torchvision's files: resnet50-0676ba61.pth
        return _read(_download(entry.url, name, sha256 or hash_in_name)), f"torchvision's {entry}"
    if urlparse(weights).scheme in ("http", "https", "file"):
        # Many addresses end in model.pth: the name in the cache says which of them it was.
        name = f"{hashlib.sha256(weights.encode()).hexdigest()[:8]}-{Path(urlparse(weights).path).name}"
        return _read(_download(weights, name, sha256)), weights
    path = Path(weights).expanduser()
    if not path.is_file():
        raise ValueError(f"backbone.weights={weights}: no such file; give a path, a URL, imagenet or null")
    _check(path, sha256)
    return _read(path), str(path)


def _download(url: str, name: str, sha256: str | None) -> Path:
    """The file at `url`, kept in torch's hub folder; written under its name only when whole and of the right hash."""
    place = Path(torch.hub.get_dir()) / "checkpoints" / name
    if place.is_file():
        _check(place, sha256)
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(place), sha256, progress=url.startswith("http"))
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong hash a RuntimeError
        raise ValueError(
            f"cannot fetch {url} ({error}); fetch it by other means and set backbone.weights=PATH, "
            f"or put it at {place}, or train from random weights with backbone.weights=null"
        ) from error
    return place


def _check(path: Path, sha256: str | None) -> None:
    """Refuses a file whose hash does not begin with `sha256`."""
    if sha256 is None:
        return
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if not digest.hexdigest().startswith(sha256.lower()):
        raise ValueError(
            f"{path} has sha256 {digest.hexdigest()}, expected {sha256} (backbone.weights_sha256, or the file's name); "
            "delete it and fetch it again, or correct the key"
        )


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is damaged or not a state dict ({reason}); delete it and fetch it again") from error
    if isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values()):
        return state
    found = f"a dict of {', '.join(map(str, list(state)[:5]))}" if isinstance(state, dict) else type(state).__name__
    raise ValueError(f"{path}: expected a state dict (names to tensors), found {found}; save its state dict alone")
