"""Pickled numpy arrays (Detectron2's .pkl) without running anything that the file names.

A pickle is a program. This reader gives it dictionaries, lists, strings and numbers, and in place of numpy's classes
its own stand-ins, which only collect bytes. Whatever else it names is refused.
Source: the Python manual, pickle, "Restricting Globals".
"""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

NUMBERS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"}


class _Type:
    """Stands for numpy.dtype."""

    def __init__(self, code: str = "", *_: object) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def numpy(self) -> np.dtype[Any]:
        if self.code not in NUMBERS:
            raise ValueError(f"an array of type {self.code!r}; expected numbers")
        return np.dtype(self.order + self.code)


class _Array:
    """Stands for numpy.ndarray."""

    tensor: Tensor

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_column, raw = state
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        dtype = kind.numpy()
        if len(raw) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"an array of shape {shape} with {len(raw)} bytes")
        values = np.frombuffer(raw, dtype).reshape(shape, order="F" if by_column else "C")
        self.tensor = torch.from_numpy(values.astype(dtype.newbyteorder("="), order="C"))


def _scalar(kind: _Type, raw: bytes | str) -> int | float:
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    value: int | float = np.frombuffer(raw, kind.numpy(), 1)[0].item()
    return value


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Stands for _codecs.encode, by which old protocols write bytes."""
    return text.encode("latin1")


def _no_bytes(*_: object) -> bytes:
    """Stands for bytes, by which old protocols write empty ones."""
    return b""


STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
    ("collections", "OrderedDict"): dict,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = STAND_INS.get((module.replace("numpy._core", "numpy.core"), name))
        if found is None:
            raise ValueError(f"it names {module}.{name}, which could run code; only arrays of numbers are read")
        return found


def read_array_pickle(path: Path) -> dict[str, Any]:
    """The dictionary at `path`, its arrays as tensors. Raises ValueError for anything else that a pickle may hold."""
    try:
        with open(path, "rb") as file:
            content = _Reader(file, encoding="latin1").load()
    except OSError:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # whatever damaged bytes lead the machine to
        raise ValueError(f"{path}: damaged, or no pickle of arrays ({type(error).__name__}: {error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a dictionary, found {type(content).__name__}")
    found: dict[str, Any] = _plain(content)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.tensor
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value
