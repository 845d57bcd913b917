"""Loads classifier weights into a backbone, from torchvision's registry, a file or a URL, after a check."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from detector.backbones.torchvision_library import models
from detector.configs.zoo import zoo_entry, zoo_names
from detector.export.safetensors import looks_like_safetensors, read_safetensors
from detector.fetch import cached, require_sha256

log = logging.getLogger("detector")


def load_classifier_weights(backbone: nn.Module, weights: str, *, architecture: str, sha256: str | None) -> None:
    """Load a classifier's state dict into a backbone with a `rename(key)` method, and log a summary.

    `weights` is "imagenet" (torchvision's registry entry of `architecture`), a name in `configs/zoo.yaml`, a path (a
    torch state dict or safetensors), or a URL. Layers that the backbone does not have are skipped. New layers of the
    backbone (a fully connected tail) keep their initial values.

    Raises:
        ValueError: the file is missing, damaged or has another checksum; or it lacks tensors that the backbone needs,
            or their shapes differ. The message lists the first ones.
    """
    state, source = _fetch(weights, architecture, sha256)
    renamed: dict[str, Tensor] = {}
    unknown = []
    own = backbone.state_dict()
    for key, value in state.items():
        name = backbone.rename(key)  # type: ignore[operator]
        if name is None or name.endswith("num_batches_tracked"):
            continue
        if name in own:
            renamed[name] = value.float() if value.is_floating_point() else value
        else:
            unknown.append(key)
    # Layers that a classifier does not have.
    new = () if getattr(backbone, "native_tail", False) else ("tail.", "top_down.", "fpn.")
    missing = [key for key in own if key not in renamed and not key.startswith(new) and "num_batches" not in key]
    shapes = [
        f"{key}: {tuple(value.shape)} in the file, {tuple(own[key].shape)} here"
        for key, value in renamed.items()
        if value.shape != own[key].shape
    ]
    if missing or unknown or shapes:
        problems = [
            f"{len(keys)} {problem} (first: {'; '.join(keys[:3])})"
            for problem, keys in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
            if keys
        ]
        raise ValueError(
            f"{source} does not fit {architecture}: {', '.join(problems)}; "
            "check backbone.width and backbone.norm (gn has no batch norm weights), or set backbone.weights=null"
        )
    backbone.load_state_dict(renamed, strict=False)
    log.info(
        "backbone %s: %d tensors from %s; skipped tensors: %d; new layers: %s",
        architecture,
        len(renamed),
        source,
        len(state) - len(renamed),
        ", ".join(sorted({key.rpartition(".")[0] for key in own if key.startswith(new)})) or "none",
    )


def _fetch(weights: str, architecture: str, sha256: str | None) -> tuple[dict[str, Tensor], str]:
    """Return the state dict and the name of its source."""
    if weights == "imagenet":
        entry = next(iter(models.get_model_weights(architecture)))  # the first entry has the original training recipe
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
            f"backbone.weights={weights}: no such file; give a path, a URL, imagenet, null, or one of the names "
            f"{', '.join(zoo_names('classifier'))}"
        )
    return _cached(named.url, sha256 or named.sha256), f"{weights} ({named.url})"


def _cached(url: str, sha256: str | None) -> dict[str, Tensor]:
    name = Path(urlparse(url).path).name
    if sha256 is None or sha256 != _hash_in_name(url):
        # Many URLs end in the same name, such as model.pth. The hash of the URL makes the name in the cache unique.
        name = f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}"
    try:
        return read_classifier(cached(url, name, sha256))
    except ValueError as error:
        choices = "give backbone.weights=FILE, or train from scratch with backbone.weights=null"
        raise ValueError(f"{error}, or {choices}") from error


def _hash_in_name(url: str) -> str:
    """Return the first eight digits of the sha256, which torchvision's file names contain: resnet50-0676ba61.pth."""
    return Path(urlparse(url).path).stem.rpartition("-")[2]


def read_classifier(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a torch or safetensors file. Raises ValueError if the file has no state dict."""
    if looks_like_safetensors(path):
        return read_safetensors(path)[0]
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load can raise anything for damaged bytes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} is damaged or not a state dict ({reason}); delete the file and download it again"
        ) from error
    if isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values()):
        return state
    found = f"a dict of {', '.join(map(str, list(state)[:5]))}" if isinstance(state, dict) else type(state).__name__
    raise ValueError(f"{path}: expected a state dict (names to tensors), found {found}; save the state dict only")
