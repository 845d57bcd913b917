"""Whether pictures can be read, by their headers and their ends: what a copy or a full disk has cut short.

A decoder reads every byte; this reads a few kilobytes of each file. Only a picture whose end looks odd is decoded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image
from tqdm import tqdm

from detector.datasets.images import ORIENTATION, UNREADABLE

TAIL = 4096  # bytes in which the end mark must lie; cameras write their own notes after it
MANY = 500  # pictures from which on a progress bar is shown
END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}


class PictureFacts(NamedTuple):
    """What is known of a picture without decoding it."""

    size: tuple[int, int]  # width, height as stored; (0, 0) if it cannot be read
    orientation: int  # of EXIF; 1: as stored
    problem: str | None  # why it cannot be read


def check_pictures(files: Sequence[Path], check: Callable[[Path], PictureFacts] | None = None) -> list[PictureFacts]:
    """The facts of each picture, by threads; a progress bar shows for many."""
    with ThreadPoolExecutor(min(32, 2 * (os.cpu_count() or 1))) as pool:
        found = pool.map(check or check_picture, files)
        return list(tqdm(found, "checking pictures", len(files), unit="", disable=len(files) < MANY, leave=False))


def check_picture(path: Path) -> PictureFacts:
    """The facts of one picture; nothing is raised."""
    try:
        with path.open("rb") as file:
            picture = Image.open(file)
            size, orientation = picture.size, int(picture.getexif().get(ORIENTATION, 1) or 1)
            if not _ends_well(file, str(picture.format)):
                file.seek(0)
                Image.open(file).load()
    except FileNotFoundError:
        return PictureFacts((0, 0), 1, f"{path}: no such image; restore it or take it out")
    except (*UNREADABLE, TypeError, IndexError, KeyError, OverflowError, MemoryError) as error:
        reason = "it is empty" if path.is_file() and not path.stat().st_size else str(error) or type(error).__name__
        return PictureFacts((0, 0), 1, f"{path}: cannot be read ({reason}); replace it or take it out")
    return PictureFacts(size, orientation, None)


def _ends_well(file: BinaryIO, kind: str) -> bool:
    """Whether the format's end mark is there; False for formats without one."""
    mark = END_MARKS.get(kind)
    if mark is None:
        return False
    file.seek(0, os.SEEK_END)
    length = file.tell()
    file.seek(max(0, length - TAIL))
    tail = file.read(TAIL)
    # The thumbnail in the header of a small JPEG has an end of its own.
    return mark in tail and (kind != "JPEG" or length > 16 * TAIL or tail.rstrip(b"\0\r\n ").endswith(mark))
