"""Whether pictures can be read: a copy that was cut short, a disk that was full, a file that is no picture.

The quick check reads the header and the end of a file, a few kilobytes. It decodes a picture only if its end looks
odd. The full check decodes every picture.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import PIL
from PIL import Image
from tqdm import tqdm

from detector.datasets.check_cache import cached_results
from detector.datasets.images import ORIENTATION, UNREADABLE, to_pixels

TAIL = 4096  # bytes in which the end mark must lie; cameras write their own notes after it
MANY = 500  # a progress bar shows from this many pictures on
VERSION = f"1, Pillow {PIL.__version__}"  # of the check: one picture may be readable by one version only
DAMAGED = (*UNREADABLE, TypeError, IndexError, KeyError, OverflowError, MemoryError)  # what damaged files lead to
END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}


class PictureFacts(NamedTuple):
    """What is known of a picture without decoding it."""

    size: tuple[int, int]  # width, height as stored; (0, 0) if it cannot be read
    orientation: int  # of EXIF; 1: as stored
    problem: str | None  # why it cannot be read


def check_pictures(files: Sequence[Path], *, decode: bool = False, keep: bool = False) -> list[PictureFacts]:
    """The facts of each picture, by threads on all cores. With `decode` every pixel is read.

    With `keep` the facts of good pictures are kept for the next call, see `check_cache.py`.
    """

    def check_all(paths: Sequence[Path]) -> list[PictureFacts]:
        cores = os.cpu_count() or 1
        with ThreadPoolExecutor(cores if decode else min(32, 2 * cores)) as pool:
            found = pool.map(decode_picture if decode else check_picture, paths)
            told = "decoding pictures" if decode else "checking pictures"
            hidden = None if len(paths) >= MANY else True  # None: shown on a terminal only
            return list(tqdm(found, told, len(paths), unit="", disable=hidden, leave=False))

    if not keep:
        return check_all(files)
    return cached_results(
        "decode" if decode else "headers", files, check_all, version=VERSION, to_json=_to_json, from_json=_from_json
    )


def _to_json(fact: PictureFacts) -> list[int] | None:
    """None for a picture with a problem: a disk or a network may give it the next time."""
    return None if fact.problem else [*fact.size, fact.orientation]


def _from_json(value: list[int]) -> PictureFacts:
    width, height, orientation = map(int, value)
    return PictureFacts((width, height), orientation, None)


def check_picture(path: Path) -> PictureFacts:
    """The facts of one picture by its header and its end. It raises nothing."""
    try:
        with path.open("rb") as file:
            picture = Image.open(file)
            size, kind, tail = picture.size, str(picture.format), _tail(file)
            # Pillow decodes a PNG to look for EXIF behind its pixels.
            is_early = kind == "PNG" and b"eXIf" not in tail
            exif = Image.Image.getexif(picture) if is_early else picture.getexif()
            orientation = int(exif.get(ORIENTATION, 1) or 1)
            if not _ends_well(tail, kind, is_long=os.fstat(file.fileno()).st_size > 16 * TAIL):
                file.seek(0)
                Image.open(file).load()
    except DAMAGED as error:
        return PictureFacts((0, 0), 1, _problem(path, error))
    return PictureFacts(size, orientation, None)


def decode_picture(path: Path) -> PictureFacts:
    """The facts of one picture, all of whose pixels can be read. It raises nothing."""
    try:
        with Image.open(path) as picture:
            size, orientation = picture.size, int(picture.getexif().get(ORIENTATION, 1) or 1)
            to_pixels(picture)
    except DAMAGED as error:
        return PictureFacts((0, 0), 1, _problem(path, error))
    return PictureFacts(size, orientation, None)


def _problem(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{path}: no such image; restore it or take it out"
    empty = path.is_file() and not path.stat().st_size
    reason = "it is empty" if empty else str(error) or type(error).__name__
    return f"{path}: cannot be read ({reason}); replace it or take it out"


def _tail(file: BinaryIO) -> bytes:
    """The last bytes of a file; its place is kept."""
    place = file.tell()
    file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
    tail = file.read(TAIL)
    file.seek(place)
    return tail


def _ends_well(tail: bytes, kind: str, *, is_long: bool) -> bool:
    """Whether the format's end mark is there; False for formats without one."""
    mark = END_MARKS.get(kind)
    # The thumbnail in the header of a small JPEG has an end of its own.
    return mark is not None and mark in tail and (kind != "JPEG" or is_long or tail.rstrip(b"\0\r\n ").endswith(mark))
