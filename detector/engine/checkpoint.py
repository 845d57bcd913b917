"""Checkpoints that are whole or not there: written beside their place, synced, then moved into it.

A checkpoint is what `torch.save` writes, followed by a checksum of all of it: torch checks none on loading, so that a
flipped bit in a weight would be loaded unseen.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

log = logging.getLogger("detector")

FORMAT = 2
WITHOUT_CHECKSUM = 1  # the format before it had one
MARK = b"\nsha256:"  # in front of the digest, at the end of the file
TRAILER_BYTES = len(MARK) + hashlib.sha256().digest_size


class _Summed:
    """A file to write to that keeps the checksum of what went through."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.sum = hashlib.sha256()
        self.error: OSError | None = None  # torch reports its own surprise at it instead

    def write(self, data: bytes) -> int:
        self.sum.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


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
    """Writes `content` (tensors, numbers, strings, dicts and lists of them) to `path`.

    Raises OSError where that fails, for want of space or of permission; what stood at `path` is as it was.
    """

    def write(file: IO[bytes]) -> None:
        summed = _Summed(file)
        try:
            torch.save({**content, "format": FORMAT}, summed)  # type: ignore[arg-type]  # it asks for write and flush
        except RuntimeError as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # in the middle of writing; torch has covered it
                raise error.__context__ from None
            raise summed.error or error from error
        file.write(MARK + summed.sum.digest())

    try:
        write_atomically(path, write)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
        raise OSError(f"cannot write the checkpoint {path}: {reason}; what was saved before is whole") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU; nothing in the file is executed.

    Raises ValueError where the file is missing, damaged, or not a checkpoint of this project.
    """
    if path.is_dir():
        path = path / "checkpoints" / "last.pt"
    if not path.is_file():
        raise ValueError(f"expected a checkpoint at {path}, found no such file; give a .pt file or a run's folder")
    try:
        summed = _has_checksum(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        # torch's advice to load the file without this protection is nothing to pass on.
        unsafe = isinstance(error, pickle.UnpicklingError)
        reason = "not only tensors and plain values" if unsafe else str(error).split("\n")[0] or type(error).__name__
        raise ValueError(f"{path} is damaged or not a checkpoint ({reason}); use another checkpoint") from error
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if found not in (FORMAT, WITHOUT_CHECKSUM):
        raise ValueError(f"{path}: expected a checkpoint of format {FORMAT}, found {found!r}")
    if not summed and found != WITHOUT_CHECKSUM:
        raise ValueError(f"{path} is damaged or not a checkpoint (its checksum is missing); use another checkpoint")
    assert isinstance(content, dict)
    return content


def _has_checksum(path: Path) -> bool:
    """Whether a checksum stands at the end of the file. Raises ValueError where it is not that of the file's bytes."""
    left = path.stat().st_size - TRAILER_BYTES
    if left < 0:
        return False
    summed = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(left)
        trailer = file.read()
        if not trailer.startswith(MARK):
            return False
        file.seek(0)
        while left > 0:
            chunk = file.read(min(left, 1 << 20))
            if not chunk:
                break
            left -= len(chunk)
            summed.update(chunk)
    if MARK + summed.digest() != trailer:
        raise ValueError("its checksum is not that of its bytes: the file was changed after it was written")
    return True


def newest_checkpoint(folder: Path, pattern: str = "checkpoints/*.pt") -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint of those in `folder` that fit the pattern, with its content; None where none does.

    Damaged ones are reported and passed over. Raises ValueError where every one is damaged: to start anew would write
    over what might be rescued.
    """
    paths = sorted(folder.glob(pattern), key=lambda path: (path.stat().st_mtime_ns, path.name))
    for path in reversed(paths):
        try:
            return path, load_checkpoint(path)
        except ValueError as error:  # noqa: PERF203  # one file a second at most
            log.warning("passed over: %s", error)
    if paths:
        raise ValueError(f"none of the {len(paths)} checkpoints in {folder} is whole; move them away to start anew")
    return None


def remove_leftovers(folder: Path) -> None:
    """Removes what killed processes had begun to write in a run's folder."""
    for path in (*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")):
        path.unlink(missing_ok=True)


def prune_checkpoints(folder: Path, keep: int | None) -> None:
    """Removes all but the newest `keep` of the checkpoints that are kept by step; None keeps all."""
    if keep is not None:
        for path in sorted(folder.glob("step_*.pt"))[: -keep or None]:
            path.unlink(missing_ok=True)


def shared_names(module: nn.Module) -> dict[str, str]:
    """Further name -> first name of each tensor that the state dict holds twice, as a backbone's tail is the head's."""
    first: dict[int, str] = {}
    state = module.state_dict(keep_vars=True)
    return {name: first[id(value)] for name, value in state.items() if first.setdefault(id(value), name) != name}


def load_weights(module: nn.Module, weights: dict[str, Tensor], source: str, *, skip: Sequence[str] = ()) -> None:
    """Loads a state dict that must fit exactly; a tensor with two names may be given under the first alone.

    What lies under the names in `skip` stays as it is. Raises ValueError naming what is missing, unknown or of another
    shape, or a name in `skip` that neither side has.
    """
    own = module.state_dict()
    shared = {name: weights[first] for name, first in shared_names(module).items() if first in weights}
    weights = {**shared, **weights}
    for name in skip:
        if not _under([*own, *weights], [name]):
            raise ValueError(
                f"weights_skip has {name!r}; the model has {', '.join(_children(own))} and what is in them"
            )
    left_out = _under([*own, *weights], skip)
    missing = sorted(own.keys() - weights.keys() - left_out)
    unknown = sorted(weights.keys() - own.keys() - left_out)
    shapes = {
        key: f"{key}: {tuple(weights[key].shape)} in the file, {tuple(own[key].shape)} here"
        for key in sorted((own.keys() & weights.keys()) - left_out)
        if own[key].shape != weights[key].shape
    }
    if missing or unknown or shapes:
        parts = [("missing", missing), ("unknown", unknown), ("of another shape", list(shapes.values()))]
        told = "; ".join(f"{len(keys)} {what} (first: {', '.join(keys[:3])})" for what, keys in parts if keys)
        names = ",".join(_children([*missing, *unknown, *shapes]))
        raise ValueError(
            f"{source} does not fit this model: {told}; were classes, backbone or head changed? To train on with what "
            f"fits: weights={source} weights_skip=[{names}]"
        )
    module.load_state_dict({key: value for key, value in weights.items() if key not in left_out}, strict=False)


def _under(keys: Iterable[str], names: Iterable[str]) -> set[str]:
    """Those of `keys` that are one of `names`, or lie in a module of that name."""
    return {key for key in keys for name in names if f"{key}.".startswith(f"{name}.")}


def _children(keys: Iterable[str]) -> list[str]:
    """The first parts of the keys, in order, each once."""
    return list(dict.fromkeys(key.split(".")[0] for key in keys))
