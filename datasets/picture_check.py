"""Checks that pictures can be read. It finds truncated copies and files that are not pictures.

The quick check reads the header and the end of a file, a few kilobytes. It decodes a picture only if its end looks
wrong. The full check decodes every picture.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, NamedTuple

import PIL
from PIL import Image
from tqdm import tqdm

from detector.datasets.check_cache import cached_results
from detector.datasets.images import ORIENTATION, UNREADABLE, open_picture, to_pixels
from detector.datasets.tar_shards import File
from detector.datasets.unreadable import reason_of

TAIL = 4096  # number of last bytes that must contain the end mark; cameras write notes after it
MANY = 500  # lowest number of pictures for a progress bar
VERSION = f"1, Pillow {PIL.__version__}"  # another version of Pillow may read other pictures
DAMAGED = (*UNREADABLE, TypeError, IndexError, KeyError, OverflowError, MemoryError)  # raised for damaged files
END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}


class PictureFacts(NamedTuple):
    """The properties of a picture that are known without decoding it."""

    size: tuple[int, int]  # width, height as stored; (0, 0) if unreadable
    orientation: int  # EXIF orientation; 1: as stored
    problem: str | None  # the reason why it cannot be read


def check_pictures(files: Sequence[File], *, decode: bool = False, keep: bool = False) -> list[PictureFacts]:
    """Return the facts of each picture, with threads on all cores. With `decode`, decode every pixel.

    With `keep`, use and fill the check cache (`check_cache.py`). It stores readable pictures only.
    """

    def check_all(paths: Sequence[File]) -> list[PictureFacts]:
        cores = os.cpu_count() or 1
        with ThreadPoolExecutor(cores if decode else min(32, 2 * cores)) as pool:
            found = pool.map(decode_picture if decode else check_picture, paths)
            label = "decoding pictures" if decode else "checking pictures"
            hidden = None if len(paths) >= MANY else True  # None: shown only on a terminal
            return list(tqdm(found, label, len(paths), unit="", disable=hidden, leave=False))

    if not keep:
        return check_all(files)
    return cached_results(
        "decode" if decode else "headers", files, check_all, version=VERSION, to_json=_to_json, from_json=_from_json
    )


def _to_json(fact: PictureFacts) -> list[int] | None:
    """Return None for a picture with a problem: a disk or network may deliver it the next time."""
    return None if fact.problem else [*fact.size, fact.orientation]


def _from_json(value: list[int]) -> PictureFacts:
    width, height, orientation = map(int, value)
    return PictureFacts((width, height), orientation, None)


def check_picture(path: File) -> PictureFacts:
    """Return the facts of one picture, from its header and its end. Raises nothing."""
    try:
        with path.open("rb") as file:
            picture = Image.open(file)
            size, kind, tail = picture.size, str(picture.format), _tail(file)
            # `picture.getexif` decodes a PNG to look for EXIF after its pixels. This avoids it if there is none.
            is_early = kind == "PNG" and b"eXIf" not in tail
            exif = Image.Image.getexif(picture) if is_early else picture.getexif()
            orientation = int(exif.get(ORIENTATION, 1) or 1)
            if not _ends_well(tail, kind, is_long=path.stat().st_size > 16 * TAIL):
                file.seek(0)
                Image.open(file).load()
    except DAMAGED as error:
        return PictureFacts((0, 0), 1, _problem(path, error))
    return PictureFacts(size, orientation, None)


def decode_picture(path: File) -> PictureFacts:
    """Return the facts of one picture after decoding all its pixels. Raises nothing."""
    try:
        with open_picture(path) as picture:
            size, orientation = picture.size, int(picture.getexif().get(ORIENTATION, 1) or 1)
            to_pixels(picture)
    except DAMAGED as error:
        return PictureFacts((0, 0), 1, _problem(path, error))
    return PictureFacts(size, orientation, None)


def _problem(path: File, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{path}: no such image; restore it or remove it from the dataset"
    return f"{path}: cannot be read ({reason_of(path, error)}); replace it or remove it from the dataset"


def _tail(file: BinaryIO) -> bytes:
    """Return the last bytes of a file. Its read position does not change."""
    place = file.tell()
    file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
    tail = file.read(TAIL)
    file.seek(place)
    return tail


def _ends_well(tail: bytes, kind: str, *, is_long: bool) -> bool:
    """Return True if the end mark of the format is there; False for formats without one."""
    mark = END_MARKS.get(kind)
    # The thumbnail in the header of a small JPEG has an end mark too.
    return mark is not None and mark in tail and (kind != "JPEG" or is_long or tail.rstrip(b"\0\r\n ").endswith(mark))
