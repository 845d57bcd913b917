"""Tensors and strings in one file, with nothing in it that could run: the safetensors format, read with distrust.

8 bytes little-endian: the header's length. The header, JSON: tensor name -> {"dtype", "shape", "data_offsets"}, and
under "__metadata__" strings by name. Then the tensors' bytes, little-endian, row-major, one after another without a
gap. Source: https://github.com/huggingface/safetensors (README, Format).
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

MAX_HEADER = 100_000_000  # bytes, as the format's own readers have it
ALIGNMENT = 8
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

assert sys.byteorder == "little", "tensors are written as they lie in memory"


class Place(NamedTuple):
    """Where a tensor lies behind the header, and what it is."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


def looks_like_safetensors(path: Path) -> bool:
    """Whether a file has the suffix, or begins as such a file does."""
    if path.suffix == ".safetensors":
        return True
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def write_safetensors(file: IO[bytes], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes the same bytes for the same values. Raises ValueError for a dtype that the format does not have."""
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    # The wide ones first: so each begins at a multiple of its element's size.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in NAMES or name == "__metadata__":
            raise ValueError(f"{name}: cannot store a tensor of {tensor.dtype} under this name")
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for name in order:
        file.write(raw_bytes(tensors[name]))


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, on the CPU, and the metadata. Raises ValueError in one line for whatever is not as the format says.

    Every element of the header is checked before a tensor is made, so that a damaged file costs no memory.
    """
    with _opened(path) as file:
        header, metadata = _read_header(file, path)
        places = _places(header, path, file.tell())
        tensors = {}
        for name, place in places.items():
            tensor = torch.empty(place.shape, dtype=place.dtype)
            if file.readinto(raw_bytes(tensor)) != place.end - place.start:
                raise ValueError(f"{path} is damaged: it ended while {name} was read; fetch or export it again")
            tensors[name] = tensor
    return tensors, metadata


def read_metadata(path: Path) -> dict[str, str]:
    """The strings alone; no tensor is read or checked. Raises ValueError as `read_safetensors` does."""
    with _opened(path) as file:
        return _read_header(file, path)[1]


def fingerprint(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 over all metadata and every tensor's name, dtype, shape and bytes, whatever order they are stored in."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{json.dumps(name)} {NAMES[tensor.dtype]} {list(tensor.shape)}\n".encode())
        digest.update(raw_bytes(tensor))
    return digest.hexdigest()


def raw_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a CPU tensor, without a copy where it lies in row-major order."""
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _opened(path: Path) -> BufferedReader:
    if not path.is_file():
        raise ValueError(f"expected a model at {path}, found no such file")
    return open(path, "rb")


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(f"{path} is damaged or no safetensors file: {why}; fetch or export it again")


def _read_header(file: IO[bytes], path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The tensors' entries, unchecked, and the metadata; the file stands at the first tensor afterwards."""
    size = path.stat().st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or not 2 <= length <= min(size - 8, MAX_HEADER):
        raise _damaged(path, f"its first 8 bytes give a header of {length} bytes in a file of {size}")
    try:
        header = json.loads(file.read(length).decode(), object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise _damaged(path, f"its header is a {type(header).__name__}")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(path, "its metadata is not strings by name")
    return header, metadata


def _places(header: dict[str, Any], path: Path, begin: int) -> dict[str, Place]:
    """Where each tensor lies, in order; they must fill what follows the header without gap or overlap."""
    places = {}
    for name, entry in header.items():
        try:
            dtype, shape, (start, end) = DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
            whole = all(type(number) is int and number >= 0 for number in (*shape, start, end))
            fits = whole and len(entry) == 3 and end - start == math.prod(shape) * dtype.itemsize
        except (KeyError, TypeError, ValueError):
            fits = False
        if not fits:
            raise _damaged(path, f"the entry of {name} cannot be: {str(entry)[:120]}")
        places[name] = Place(dtype, shape, start, end)
    places = dict(sorted(places.items(), key=lambda item: (item[1].start, item[1].end)))
    reached, available = 0, path.stat().st_size - begin
    for name, place in places.items():
        if place.start != reached:
            raise _damaged(path, f"{name} begins at byte {place.start} of the data, the one before ends at {reached}")
        reached = place.end
    if reached != available:
        raise _damaged(path, f"its tensors take {reached} bytes, but {available} follow the header")
    return places


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found
