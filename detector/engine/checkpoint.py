"""Checkpoints, written atomically: to a temporary file, synced, then renamed. A checkpoint is complete or absent.

A checkpoint file is the output of `torch.save`, followed by a checksum of it. torch verifies no checksum when it loads
a file, so without ours nobody would notice a flipped bit in a weight.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

log = logging.getLogger("detector")

FORMAT = 2
WITHOUT_CHECKSUM = 1  # an older format, which has no checksum
MARK = b"\nsha256:"  # at the end of the file, before the digest
TRAILER_BYTES = len(MARK) + hashlib.sha256().digest_size


class _Summed:
    """A writable file that computes the checksum of all bytes written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.sum = hashlib.sha256()
        self.error: OSError | None = None  # kept, since torch raises a RuntimeError of its own in its place

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
    """Call `write` with an open temporary file, sync the file to disk, then rename it to `path`."""
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
    """Write `content` (tensors, numbers, strings, dicts and lists of them) to `path`.

    Raises OSError if writing fails (no space, no permission); an older file at `path` then stays unchanged.
    """

    def write(file: IO[bytes]) -> None:
        summed = _Summed(file)
        try:
            torch.save({**content, "format": FORMAT}, summed)  # type: ignore[arg-type]  # it asks for write and flush
        except RuntimeError as error:
            # A signal may raise while torch writes: Ctrl-C, or a loader's worker that died. torch replaces that error.
            raise summed.error or error.__context__ or error from None
        file.write(MARK + summed.sum.digest())

    try:
        write_atomically(path, write)
    except OSError as error:
        reason = error.strerror or str(error).split("\n")[0]
        older = "; the previous checkpoint is intact" if any(path.parent.glob("*.pt")) else ""
        raise OSError(f"cannot write the checkpoint {path}: {reason}{older}") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint, with tensors on the CPU. No code in the file is executed.

    Raises ValueError if the file is missing, damaged, or not a checkpoint of this project.
    """
    if path.is_dir():
        path = path / "checkpoints" / "last.pt"
    if not path.is_file():
        raise ValueError(f"expected a checkpoint at {path}, found no such file; give a .pt file or a run's folder")
    try:
        summed = _has_checksum(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load can raise anything for damaged bytes
        # Do not show torch's message here: it advises to load the file without this protection.
        unsafe = isinstance(error, pickle.UnpicklingError)
        reason = "not only tensors and plain values" if unsafe else str(error).split("\n")[0] or type(error).__name__
        raise ValueError(f"{path} is damaged or not a checkpoint ({reason}); use another checkpoint") from error
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if found is None:
        raise ValueError(
            f"{path} is not a checkpoint of a run; give a run's folder, or backbone.weights={path} for a classifier"
        )
    if found not in (FORMAT, WITHOUT_CHECKSUM):
        raise ValueError(f"{path}: expected a checkpoint of format {FORMAT}, found {found!r}")
    if not summed and found != WITHOUT_CHECKSUM:
        raise ValueError(f"{path} is damaged or not a checkpoint (its checksum is missing); use another checkpoint")
    assert isinstance(content, dict)
    return content


def _has_checksum(path: Path) -> bool:
    """Whether the file ends with a checksum. Raises ValueError if the checksum does not match the file's bytes."""
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
        raise ValueError("its checksum does not match its bytes: the file was changed after it was written")
    return True


def newest_checkpoint(folder: Path, pattern: str = "checkpoints/*.pt") -> tuple[Path, dict[str, Any]] | None:
    """The path and content of the newest intact checkpoint in `folder` that matches `pattern`; None without a match.

    Damaged checkpoints are logged and skipped. Raises ValueError if all are damaged: a new start would overwrite
    files that one could perhaps repair.
    """
    paths = sorted(folder.glob(pattern), key=lambda path: (path.stat().st_mtime_ns, path.name))
    for path in reversed(paths):
        try:
            return path, load_checkpoint(path)
        except ValueError as error:  # noqa: PERF203  # one file a second at most
            log.warning("skipped: %s", error)
    if paths:
        raise ValueError(f"all {len(paths)} checkpoints in {folder} are damaged; move them away to start from step 0")
    return None


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a run's folder."""
    for path in (*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")):
        path.unlink(missing_ok=True)


def prune_checkpoints(folder: Path, keep: int | None) -> None:
    """Remove all but the newest `keep` of the numbered checkpoints (step_*.pt); None keeps all."""
    if keep is not None:
        for path in sorted(folder.glob("step_*.pt"))[: -keep or None]:
            path.unlink(missing_ok=True)


def shared_names(module: nn.Module) -> dict[str, str]:
    """For tensors with several names in the state dict: each later name -> the first name.

    Example: backbone and head share the tail.
    """
    first: dict[int, str] = {}
    state = module.state_dict(keep_vars=True)
    return {name: first[id(value)] for name, value in state.items() if first.setdefault(id(value), name) != name}


def load_weights(module: nn.Module, weights: dict[str, Tensor], source: str, *, skip: Sequence[str] = ()) -> None:
    """Load a state dict whose names and shapes must match. A tensor with two names may have the first name only.

    Tensors under the names in `skip` are not loaded. Raises ValueError that lists missing and unknown names and
    different shapes, or a name in `skip` that neither the model nor `weights` has.
    """
    own = module.state_dict()
    shared = {name: weights[first] for name, first in shared_names(module).items() if first in weights}
    weights = {**shared, **weights}
    for name in skip:
        if not _under([*own, *weights], [name]):
            raise ValueError(
                f"weights_skip has {name!r}; expected one of {', '.join(_children(own))}, or a module inside one"
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
        differences = "; ".join(f"{len(keys)} {what} (first: {', '.join(keys[:3])})" for what, keys in parts if keys)
        names = ",".join(_children([*missing, *unknown, *shapes]))
        raise ValueError(
            f"{source} does not fit this model: {differences}; did classes, backbone or head change? To load the "
            f"tensors that fit: weights={source} weights_skip=[{names}]"
        )
    module.load_state_dict({key: value for key, value in weights.items() if key not in left_out}, strict=False)


def _under(keys: Iterable[str], names: Iterable[str]) -> set[str]:
    """The keys that equal one of `names` or start with it as their module."""
    return {key for key in keys for name in names if f"{key}.".startswith(f"{name}.")}


def _children(keys: Iterable[str]) -> list[str]:
    """The names of the top modules in the keys, in order, without duplicates."""
    return list(dict.fromkeys(key.split(".")[0] for key in keys))
