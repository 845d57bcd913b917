"""Reads pickled numpy arrays (Detectron2's .pkl) without running code from the file.

A pickle is a program that can call any function. This reader allows dictionaries, lists, strings and numbers. It
replaces numpy's classes by its own, which only collect bytes, and refuses all other names.
Source: the Python manual, pickle, "Restricting Globals".
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

NUMBERS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"}


class _DType:
    """Replacement of numpy.dtype."""

    def __init__(self, code: str = "", *_: object) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def numpy(self) -> np.dtype[Any]:
        if self.code not in NUMBERS:
            raise ValueError(f"expected arrays of numbers, found an array of type {self.code!r}")
        return np.dtype(self.order + self.code)


class _Array:
    """Replacement of numpy.ndarray."""

    tensor: Tensor

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype_state, column_major, raw = state
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        dtype = dtype_state.numpy()
        expected = math.prod(shape) * dtype.itemsize
        if len(raw) != expected:
            raise ValueError(f"expected {expected} bytes for an array of shape {shape}, found {len(raw)}")
        values = np.frombuffer(raw, dtype).reshape(shape, order="F" if column_major else "C")
        self.tensor = torch.from_numpy(values.astype(dtype.newbyteorder("="), order="C"))


def _scalar(dtype: _DType, raw: bytes | str) -> int | float:
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    value: int | float = np.frombuffer(raw, dtype.numpy(), 1)[0].item()
    return value


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Replace _codecs.encode, which old protocols call to make bytes."""
    return text.encode("latin1")


def _empty_bytes(*_: object) -> bytes:
    """Replace bytes, which old protocols call to make empty bytes."""
    return b""


REPLACEMENTS: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _empty_bytes,
    ("builtins", "bytes"): _empty_bytes,
    ("collections", "OrderedDict"): dict,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = REPLACEMENTS.get((module.replace("numpy._core", "numpy.core"), name))
        if found is None:
            raise ValueError(f"it names {module}.{name}, which could run code; only arrays of numbers are read")
        return found


def read_array_pickle(path: Path) -> dict[str, Any]:
    """Return the dictionary at `path`, with tensors for its arrays. Raises ValueError for any other content."""
    try:
        data = path.read_bytes()
        _require_small_memo(data)
        content = _Reader(io.BytesIO(data), encoding="latin1").load()
        if isinstance(content, dict):
            return {str(key): _plain(item) for key, item in content.items()}
    except OSError:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # damaged bytes can raise anything
        raise ValueError(f"{path}: damaged, or not a pickle of arrays ({type(error).__name__}: {error})") from error
    raise ValueError(f"{path}: expected a dictionary, found {type(content).__name__}")


def _require_small_memo(data: bytes) -> None:
    """Require plausible numbers of stored objects: the unpickler allocates memory for all smaller numbers."""
    try:
        numbers = [int(number or 0) for opcode, number, _ in pickletools.genops(data) if opcode.name.endswith("PUT")]
    except ValueError as error:
        raise pickle.UnpicklingError(str(error)) from error
    if max(numbers, default=0) > len(data):
        raise ValueError(f"it stores an object under the number {max(numbers)}; download it again")


def _plain(value: Any) -> Any:
    if isinstance(value, _Array):
        if not hasattr(value, "tensor"):
            raise ValueError("an array has no data; download it again")
        return value.tensor
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value
