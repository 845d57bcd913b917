"""Loads classifier weights into a backbone, from torchvision's registry, a file or a URL, after a check."""

from __future__ import annotations

import hashlib
import logging
import pickle
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from detector.backbones.deformable import DeformableConv2d
from detector.backbones.nodes import require_classifier
from detector.backbones.recognise import recognise
from detector.backbones.torchvision_library import models
from detector.configs.zoo import zoo_entry, zoo_names
from detector.export.safetensors import looks_like_safetensors, read_safetensors
from detector.fetch import cached, require_sha256

log = logging.getLogger("detector")

# With pretrained weights torchvision's networks of these names first change the usual mean and deviation to 0.5
# (`transform_input=True`): x * (0.229 / 0.5) + (0.485 - 0.5) / 0.5 for red. The backbone's network does not.
TRANSFORM_INPUT = ("googlenet", "inception_v3")


def load_classifier_weights(backbone: nn.Module, weights: str, *, architecture: str, sha256: str | None) -> None:
    """Load a classifier's weights into a backbone with a `rename(key)` method, and log a summary.

    `weights` is "imagenet" (torchvision's registry entry of `architecture`), a name in `configs/zoo.yaml`, a path (a
    torch state dict or safetensors), or a URL. Raises ValueError if the file is missing, damaged or has another
    checksum, or does not fit.
    """
    state, source = _fetch(weights, architecture, sha256)
    load_classifier(backbone, state, source, architecture=architecture)


def load_classifier(backbone: nn.Module, state: dict[str, Tensor], source: str, *, architecture: str) -> None:
    """Load the state dict from `source` into a backbone with a `rename(key)` method, and log a summary.

    Layers that the backbone does not have are skipped. New layers of the backbone (a fully connected tail) keep their
    initial values. Raises ValueError for tensors that the backbone needs and `state` lacks, and for other shapes; the
    message lists the first ones.
    """
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
    new = _new_layers(backbone)
    missing = [key for key in own if key not in renamed and key not in new and "num_batches" not in key]
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
        name = recognise(state)
        remedy = "check backbone.width and backbone.norm (gn has no batch norm weights), or set backbone.weights=null"
        if name not in (None, architecture):
            remedy = f"the weights are of {name}: set backbone=torchvision backbone.name={name}"
        raise ValueError(f"{source} does not fit {architecture}: {', '.join(problems)}; {remedy}")
    backbone.load_state_dict(renamed, strict=False)
    log.info(
        "backbone %s: %d tensors from %s; skipped tensors: %d; new layers: %s",
        architecture,
        len(renamed),
        source,
        len(state) - len(renamed),
        ", ".join(sorted({key.rpartition(".")[0] for key in new})) or "none",
    )


def _new_layers(backbone: nn.Module) -> set[str]:
    """Return the tensors that a classifier does not have: tail, pathways between maps, offsets of convolutions."""
    first = () if getattr(backbone, "native_tail", False) else ("tail.", "top_down.", "fpn.")
    offsets = tuple(
        f"{path}.offset." for path, layer in backbone.named_modules() if isinstance(layer, DeformableConv2d)
    )
    return {key for key in backbone.state_dict() if key.startswith((*first, *offsets))}


def require_source(weights: str) -> None:
    """Raise ValueError if `weights` is neither imagenet, a URL, a file, nor a name in `configs/zoo.yaml`."""
    if weights == "imagenet" or _is_url(weights) or Path(weights).expanduser().is_file():
        return
    if zoo_entry(weights, "classifier") is None:
        raise ValueError(
            f"backbone.weights={weights}: no such file; give a path, a URL, imagenet, null, or one of the names "
            f"{', '.join(zoo_names('classifier'))}"
        )


def torchvision_normalisation(architecture: str, weights: str) -> tuple[list[float], list[float]] | None:
    """Return mean and standard deviation (R, G, B in [0, 1]) of the images that torchvision's weights were trained on.

    `weights` is imagenet, or a path or URL that ends in the name of a file of torchvision. None: another one. Raises
    ValueError for a classifier that torchvision does not have.
    """
    require_classifier(architecture)
    entries = list(models.get_model_weights(architecture))
    file = Path(urlparse(weights).path).name
    entry = entries[0] if weights == "imagenet" else next((e for e in entries if e.url.endswith(f"/{file}")), None)
    if entry is None:
        return None
    if architecture in TRANSFORM_INPUT:
        return [0.5] * 3, [0.5] * 3
    preset = entry.transforms()
    return list(preset.mean), list(preset.std)


def _is_url(weights: str) -> bool:
    return urlparse(weights).scheme in ("http", "https", "file")


def _fetch(weights: str, architecture: str, sha256: str | None) -> tuple[dict[str, Tensor], str]:
    """Return the state dict and the name of its source."""
    require_source(weights)
    if weights == "imagenet":
        entry = next(iter(models.get_model_weights(architecture)))  # the first entry has the original training recipe
        return _cached(entry.url, sha256 or _hash_in_name(entry.url)), f"torchvision's {entry}"
    if _is_url(weights):
        return _cached(weights, sha256), weights
    path = Path(weights).expanduser()
    if path.is_file():
        require_sha256(path, sha256)
        return read_classifier(path), str(path)
    named = zoo_entry(weights, "classifier")
    assert named is not None
    return _cached(named.url, sha256 or named.sha256), f"{weights} ({named.url})"


def _cached(url: str, sha256: str | None) -> dict[str, Tensor]:
    name = Path(urlparse(url).path).name
    if sha256 is None or sha256 != _hash_in_name(url):
        # Many URLs end in the same name, such as model.pth. The hash of the URL makes the name in the cache unique.
        name = f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}"
    try:
        return read_classifier(cached(url, name, sha256))
    except ValueError as error:
        choices = "give backbone.weights=FILE, or train from scratch with backbone.weights=null backbone.norm=gn"
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
        # Do not show torch's message here: it advises to load the file without this protection.
        unsafe = isinstance(error, pickle.UnpicklingError)
        reason = "not only tensors" if unsafe else str(error).split("\n")[0] or type(error).__name__
        raise ValueError(
            f"{path} is damaged or not a state dict ({reason}); give another file, or delete a download to fetch it "
            "again"
        ) from error
    if isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values()):
        return state
    found = f"a dict of {', '.join(map(str, list(state)[:5]))}" if isinstance(state, dict) else type(state).__name__
    raise ValueError(f"{path}: expected a state dict (names to tensors), found {found}; save the state dict only")
