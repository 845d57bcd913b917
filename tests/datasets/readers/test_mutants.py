"""Damaged files of every format are read, or refused with a message. No other error occurs."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from detector.datasets.folder import Folder
from tests.datasets.readers import formats

PIECES = (
    b"NaN", b"1e999", b"-1", b"null", b"[]", b"{}", b'""', b"\x00", b"\xff", b"[[[[", b"true", b"9" * 400, b"<x>", b",",
    b"</annotation>", b"\n", b'"', b"inf", b"1.5", b"0", b"-", b"&bad;", b"\xff\xfe", b": ", b"- ", b"*a", b"&a ", b";",
)  # fmt: skip


def mutant(content: bytes, rng: random.Random) -> bytes:
    """Return the bytes with one to four changes: replaced, removed, repeated, cut off, or with an awkward piece."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(6):
            case 0 if changed:
                changed[min(at, len(changed) - 1)] = rng.randrange(256)
            case 1:
                del changed[at : at + rng.randrange(1, 12)]
            case 2:
                del changed[at:]
            case 3:
                changed[at:at] = changed[rng.randrange(len(changed) + 1) :][: rng.randrange(60)]
            case _:
                changed[at : at + rng.choice((0, 0, 1, 3, 6))] = rng.choice(PIECES)
    return bytes(changed)


def open_mutants(root: Path, write: Callable[[Path], str], count: int) -> None:
    write(root)
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".jpg")
    rng = random.Random(write.__name__)
    for number in range(count):
        path = rng.choice(files)
        whole = path.read_bytes()
        path.write_bytes(mutant(whole, rng))
        try:
            folder = Folder(root)
        except ValueError as error:
            message = str(error)
            assert str(root) in message, f"mutant {number} of {path}: the message names no file"
        else:
            for item in (*folder.train.annotations, *folder.test.annotations):
                x1, y1, x2, y2 = item.boxes.unbind(1)
                inside = (x1 >= 0) & (y1 >= 0) & (x2 <= item.width) & (y2 <= item.height)
                assert (inside & (x1 < x2) & (y1 < y2)).all(), f"mutant {number} of {path}: {item.boxes}"
                assert ((item.labels >= 1) & (item.labels <= len(folder.train.classes))).all()
        path.write_bytes(whole)


@pytest.mark.parametrize("write", formats.FORMATS, ids=lambda write: write.__name__)
def test_mutants_are_read_or_refused(tmp_path: Path, write: Callable[[Path], str]) -> None:
    open_mutants(tmp_path, write, 25)


@pytest.mark.slow
@pytest.mark.parametrize("write", formats.FORMATS, ids=lambda write: write.__name__)
def test_many_mutants_are_read_or_refused(tmp_path: Path, write: Callable[[Path], str]) -> None:
    open_mutants(tmp_path, write, 10_000)
