"""Checks the structure of a Matlab file (version 5 to 7) before scipy reads it: scipy crashes on some damaged files.

Source: MathWorks, "MAT-File Format", chapter "Level 5 MAT-File Format".
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

HEADER = 128  # bytes
INT8, INT32, UINT32, MATRIX, COMPRESSED, UTF8 = 1, 5, 6, 14, 15, 16  # data types
BYTES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}  # of a number, by data type
CELL, NUMBERS, COMPLEX = 1, range(6, 16), 0x800  # array classes, and a flag


class _Element(NamedTuple):
    kind: int
    content: memoryview


def require_numbers(content: bytes, variable: str) -> None:
    """Require that `variable`, if it is there, is a matrix of real numbers or a cell array of such matrices.

    Other versions than 5 to 7 are not checked. Raises ValueError if the file is damaged, or the variable is of another
    kind.
    """
    if len(content) < HEADER or 0 in content[:4] or content[124:128] not in (b"\0\1IM", b"\1\0MI"):
        return
    order = "<" if content[126:128] == b"IM" else ">"
    try:
        for element in _elements(memoryview(content)[HEADER:], order):
            if element.kind == COMPRESSED:
                unpacked = zlib.decompressobj().decompress(element.content)
                element = next(_elements(memoryview(unpacked), order))
            _require_matrix(element, order, variable, depth=0)
    except (StopIteration, struct.error, zlib.error) as error:
        raise ValueError(f"its elements do not fit together ({error})") from error


def _elements(data: memoryview, order: str) -> Iterator[_Element]:
    """Yield the elements of a file or of an array. Raises struct.error if one is cut off."""
    place = 0
    while place < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, place)
        start = place + 8
        if kind >> 16:  # a small element: size, type and data in 8 bytes
            kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
            if size > 4:
                raise struct.error(f"a small element of {size} bytes")
        if start + size > len(data):
            raise struct.error(f"an element of {size} bytes in {len(data) - start}")
        yield _Element(kind, data[start : start + size])
        place = start + 4 if start == place + 4 else start + size + (0 if kind == COMPRESSED else -size % 8)


def _require_matrix(element: _Element, order: str, variable: str | None, *, depth: int) -> None:
    """Check an array. If it is a variable, check it only if it has the name `variable`."""
    if element.kind != MATRIX:
        raise ValueError(f"it has an element of type {element.kind}, where an array is expected")
    if depth and not element.content:  # an empty cell
        return
    parts = _elements(element.content, order)
    flags, shape, name = next(parts), next(parts), next(parts)
    sizes = struct.unpack(f"{order}{len(shape.content) // 4}i", shape.content)
    if (flags.kind, len(flags.content)) != (UINT32, 8) or shape.kind not in (INT32, UINT32) or min(sizes) < 0:
        raise ValueError("the header of an array is damaged")
    if name.kind not in (INT8, UTF8):
        raise ValueError(f"the name of an array has the type {name.kind}")
    if variable is not None and bytes(name.content) != variable.encode():
        return
    (flag,) = struct.unpack_from(f"{order}I", flags.content)
    count = math.prod(sizes)
    if flag & 0xFF == CELL and not depth:
        cells = list(parts)
        if len(cells) != count:
            raise ValueError(f"a cell array of {count} cells has {len(cells)}")
        for cell in cells:
            _require_matrix(cell, order, None, depth=1)
        return
    if flag & 0xFF not in NUMBERS or flag & COMPLEX:
        raise ValueError("it has other values than real numbers")
    numbers = list(parts)
    if len(numbers) != 1 or len(numbers[0].content) != count * BYTES.get(numbers[0].kind, -1):
        raise ValueError(f"an array of {count} numbers has other data")
