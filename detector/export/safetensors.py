"""Reads and writes safetensors files: tensors and strings in one file, without code. The reader checks everything.

8 bytes, little-endian: the length of the header. The header, JSON: tensor name -> {"dtype", "shape", "data_offsets"},
and "__metadata__" -> strings by name. Then the bytes of the tensors, little-endian, row-major, without gaps.
Source: https://github.com/huggingface/safetensors (README, Format).
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

MAX_HEADER = 100_000_000  # bytes, the limit of the format's reference reader
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

assert sys.byteorder == "little", "tensors are written in the byte order of the memory"


class Entry(NamedTuple):
    """Type, shape and position of a tensor in the data after the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


def looks_like_safetensors(path: Path) -> bool:
    """Whether a file has the suffix .safetensors or starts like a safetensors file."""
    if path.suffix == ".safetensors":
        return True
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def write_safetensors(file: IO[bytes], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata. Equal values give equal bytes. Raises ValueError for an unknown dtype."""
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    # Wide elements first, so that each tensor begins at a multiple of its element size.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in NAMES or name == "__metadata__":
            raise ValueError(f"{name}: cannot store a tensor of {tensor.dtype} with this name")
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for name in order:
        file.write(raw_bytes(tensors[name]))


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors, on the CPU, and the metadata.

    Checks the whole header before it allocates a tensor, so a damaged file uses no memory. Raises ValueError with a
    one-line message for every violation of the format.
    """
    with _opened(path) as file:
        header, metadata = _read_header(file, path)
        entries = _entries(header, path, file.tell())
        tensors = {}
        for name, entry in entries.items():
            tensor = torch.empty(entry.shape, dtype=entry.dtype)
            if file.readinto(raw_bytes(tensor)) != entry.end - entry.start:
                raise ValueError(f"{path} is damaged: it ends inside {name}; download or export it again")
            tensors[name] = tensor
    return tensors, metadata


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata only, without reading or checking tensors. Raises ValueError as `read_safetensors`."""
    with _opened(path) as file:
        return _read_header(file, path)[1]


def fingerprint(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return SHA-256 of all metadata and of every tensor's name, dtype, shape and bytes, independent of their order."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{json.dumps(name)} {NAMES[tensor.dtype]} {list(tensor.shape)}\n".encode())
        digest.update(raw_bytes(tensor))
    return digest.hexdigest()


def raw_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a CPU tensor, without a copy if it is contiguous."""
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _opened(path: Path) -> BufferedReader:
    if not path.is_file():
        raise ValueError(f"expected a model at {path}, found no such file")
    return open(path, "rb")


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path} is damaged or not a safetensors file: {reason}; download or export it again")


def _read_header(file: IO[bytes], path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Read the tensors' entries, unchecked, and the metadata. The next byte of the file is then the first tensor's."""
    size = path.stat().st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or not 2 <= length <= min(size - 8, MAX_HEADER):
        raise _damaged(path, f"its first 8 bytes give a header of {length} bytes in a file of {size}")
    try:
        header = json.loads(file.read(length).decode(), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise _damaged(path, f"its header is a {type(header).__name__}")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(path, "its metadata are not strings by name")
    return header, metadata


def _entries(header: dict[str, Any], path: Path, begin: int) -> dict[str, Entry]:
    """Return the checked entries in the order of the data, which they must fill without gap or overlap."""
    entries = {}
    for name, item in header.items():
        try:
            dtype, shape, (start, end) = DTYPES[item["dtype"]], tuple(item["shape"]), item["data_offsets"]
            whole = all(type(number) is int and number >= 0 for number in (*shape, start, end))
            fits = whole and len(item) == 3 and end - start == math.prod(shape) * dtype.itemsize
        except (KeyError, TypeError, ValueError):
            fits = False
        if not fits:
            raise _damaged(path, f"the entry of {name} is invalid: {str(item)[:120]}")
        entries[name] = Entry(dtype, shape, start, end)
    entries = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)))
    reached, available = 0, path.stat().st_size - begin
    for name, entry in entries.items():
        if entry.start != reached:
            raise _damaged(path, f"{name} begins at byte {entry.start} of the data, expected {reached}")
        reached = entry.end
    if reached != available:
        raise _damaged(path, f"its tensors take {reached} bytes, but {available} follow the header")
    return entries


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found
