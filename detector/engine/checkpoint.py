"""Checkpoints that are whole or not there: written beside their place, synced, then moved into it."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

FORMAT = 1


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Calls `write` with an open file that takes the name `path` only once its bytes are on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Writes `content` (tensors, numbers, strings, dicts and lists of them) to `path`."""
    try:
        write_atomically(path, lambda file: torch.save({"format": FORMAT, **content}, file))
    except (OSError, RuntimeError) as error:
        raise OSError(f"cannot write the checkpoint {path}: {error}; what was saved before is whole") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU; nothing in the file is executed.

    Raises ValueError where the file is missing, damaged, or not a checkpoint of this project.
    """
    if path.is_dir():
        path = path / "checkpoints" / "last.pt"
    if not path.is_file():
        raise ValueError(f"expected a checkpoint at {path}, found no such file; give a .pt file or a run's folder")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        # torch's advice to load the file without this protection is nothing to pass on.
        unsafe = isinstance(error, pickle.UnpicklingError)
        reason = "not only tensors and plain values" if unsafe else str(error).split("\n")[0] or type(error).__name__
        raise ValueError(f"{path} is damaged or not a checkpoint ({reason}); use another checkpoint") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path}: expected a checkpoint of format {FORMAT}, found {found!r}")
    return content


def shared_names(module: nn.Module) -> dict[str, str]:
    """Further name -> first name of each tensor that the state dict holds twice, as a backbone's tail is the head's."""
    first: dict[int, str] = {}
    state = module.state_dict(keep_vars=True)
    return {name: first[id(value)] for name, value in state.items() if first.setdefault(id(value), name) != name}


def load_weights(module: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Loads a state dict that must fit exactly; a tensor with two names may be given under the first alone.

    Raises ValueError naming what is missing, unknown or of other shape.
    """
    own = module.state_dict()
    shared = {name: weights[first] for name, first in shared_names(module).items() if first in weights}
    weights = {**shared, **weights}
    missing = sorted(own.keys() - weights.keys())
    unknown = sorted(weights.keys() - own.keys())
    shapes = [
        f"{key}: {tuple(weights[key].shape)} in the file, {tuple(own[key].shape)} here"
        for key in sorted(own.keys() & weights.keys())
        if own[key].shape != weights[key].shape
    ]
    if missing or unknown or shapes:
        parts = [("missing", missing), ("unknown", unknown), ("of another shape", shapes)]
        told = "; ".join(f"{len(keys)} {what} (first: {', '.join(keys[:3])})" for what, keys in parts if keys)
        raise ValueError(f"{source} does not fit this model: {told}; were classes, backbone or head changed?")
    module.load_state_dict(weights)
