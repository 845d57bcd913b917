"""Reads the layers of a `.caffemodel`: the part of protobuf's wire format that a NetParameter with weights needs.

A message is a sequence of fields. A field is a varint (number << 3 | wire type), then a varint (type 0), 8 bytes (1), a
length and that many bytes (2), or 4 bytes (5). Source: `caffe.proto` of rbgirshick/caffe-fast-rcnn; only these fields:
NetParameter layers = 2 (V1) and layer = 100; V1LayerParameter name = 4, blobs = 6; LayerParameter name = 1, blobs = 7;
BlobProto num, channels, height, width = 1..4, data = 5, shape = 7, double_data = 8; BlobShape dim = 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5
V1_LAYERS, LAYER = 2, 100
NAME_AND_BLOBS = {V1_LAYERS: (4, 6), LAYER: (1, 7)}


def read_caffemodel(path: Path) -> dict[str, list[Tensor]]:
    """Return layer name -> float32 blobs, for every layer with blobs. Raises ValueError for a damaged file."""
    layers: dict[str, list[Tensor]] = {}
    try:
        for number, _, value in _fields(memoryview(path.read_bytes())):
            if number in NAME_AND_BLOBS and isinstance(value, memoryview):
                name, blobs = _layer(value, *NAME_AND_BLOBS[number])
                if blobs:
                    layers[name] = blobs
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged or not a .caffemodel ({error}); download it again") from error
    if not layers:
        raise ValueError(f"{path} has no layer with weights; expected a .caffemodel of a trained network")
    return layers


def _layer(message: memoryview, name_field: int, blobs_field: int) -> tuple[str, list[Tensor]]:
    name, blobs = "", []
    for number, _, value in _fields(message):
        if number == name_field and isinstance(value, memoryview):
            name = bytes(value).decode()
        elif number == blobs_field and isinstance(value, memoryview):
            blobs.append(_blob(value))
    return name, blobs


def _blob(message: memoryview) -> Tensor:
    """Return a blob in its shape. In the old form with four dimensions, leading dimensions of 1 are removed."""
    old: dict[int, int] = {}
    shape: list[int] | None = None
    parts = []
    for number, wire, value in _fields(message):
        if number in (1, 2, 3, 4) and isinstance(value, int):
            old[number] = value
        elif number == 7 and isinstance(value, memoryview):
            shape = [size for field in _fields(value) if field[0] == 1 for size in _sizes(field[2])]
        elif number in (5, 8) and isinstance(value, memoryview):
            single = wire == FOUR_BYTES or (wire == BYTES and number == 5)
            parts.append(np.frombuffer(value, "<f4" if single else "<f8").astype(np.float32))
    values = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    if shape is None:
        shape = [old.get(number, 1) for number in (1, 2, 3, 4)]
        while len(shape) > 1 and shape[0] == 1:
            shape = shape[1:]
    if math.prod(shape) != len(values):
        raise ValueError(f"a blob of shape {shape} has {len(values)} values")
    return torch.from_numpy(values.reshape(shape))


def _sizes(value: int | memoryview) -> list[int]:
    """Return one size, or several packed sizes."""
    if isinstance(value, int):
        return [value]
    sizes, position = [], 0
    while position < len(value):
        size, position = _varint(value, position)
        sizes.append(size)
    return sizes


def _fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Yield number, wire type and value (an int or the bytes) of each field."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, position = _varint(message, position)
            yield number, wire, value
            continue
        if wire == BYTES:
            length, position = _varint(message, position)
        elif wire in (EIGHT_BYTES, FOUR_BYTES):
            length = 8 if wire == EIGHT_BYTES else 4
        else:
            raise ValueError(f"field {number} has wire type {wire}")
        if position + length > len(message):
            raise ValueError(f"field {number} of {length} bytes goes beyond its message")
        yield number, wire, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Read a varint: seven bits a byte, the lowest first, until a byte without bit 8. Return value and end position."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number of more than 10 bytes")
