"""Finds copies of pictures, whatever their names: exact copies by a hash of the file, near copies by a thumbnail."""

from __future__ import annotations

import hashlib
import os
from base64 import b64decode, b64encode
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image
from tqdm import tqdm

from detector.datasets.check_cache import cached_results
from detector.datasets.images import UNREADABLE, open_picture
from detector.datasets.picture_check import MANY
from detector.datasets.tar_shards import File

SIDE = 16  # pixels of a thumbnail's side
# Two thumbnails show the same photograph if their brightness differs by at most these limits, after both means are set
# to 0. Compressing or resizing a photograph changes a pixel of the thumbnail by about 1. An object that moves through a
# still scene changes a few pixels by tens.
NEAR_RMS = 2.0
NEAR_PIXEL = 8.0
VERSION = f"1, Pillow {PIL.__version__}"
FLAT = 2.0  # a thumbnail with a smaller standard deviation has too little content to compare


class Fingerprint(NamedTuple):
    """The content of one picture, for comparison."""

    content: str  # hash of the file's bytes
    thumbnail: bytes | None  # SIDE x SIDE grey pixels; None if the picture cannot be decoded


def fingerprints(files: Sequence[File], *, keep: bool = False) -> list[Fingerprint]:
    """Return the fingerprint of each picture, with several threads. With `keep`, use and fill the check cache.

    Raises OSError for a file that cannot be read.
    """

    def take_all(paths: Sequence[File]) -> list[Fingerprint]:
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            found = pool.map(fingerprint, paths)
            hidden = None if len(paths) >= MANY else True  # None: shown only on a terminal
            return list(tqdm(found, "comparing pictures", len(paths), unit="", disable=hidden, leave=False))

    if not keep:
        return take_all(files)
    return cached_results("contents", files, take_all, version=VERSION, to_json=_to_json, from_json=_from_json)


def _to_json(found: Fingerprint) -> list[str] | None:
    return None if found.thumbnail is None else [found.content, b64encode(found.thumbnail).decode()]


def _from_json(value: list[str]) -> Fingerprint:
    content, thumbnail = str(value[0]), b64decode(value[1])
    if len(thumbnail) != SIDE * SIDE:
        raise ValueError("not a fingerprint")
    return Fingerprint(content, thumbnail)


def fingerprint(path: File) -> Fingerprint:
    """Return the fingerprint of one picture."""
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        with open_picture(path) as picture:
            picture.draft("L", (8 * SIDE, 8 * SIDE))  # large JPEGs are decoded at a fraction of their size
            grey = picture.convert("L") if not picture.mode.startswith(("I", "F")) else _stretched(picture)
            return Fingerprint(content, grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR).tobytes())
    except UNREADABLE:
        return Fingerprint(content, None)


def _stretched(picture: Image.Image) -> Image.Image:
    pixels = np.nan_to_num(np.asarray(picture, dtype=np.float64))
    low, high = pixels.min(), pixels.max()
    return Image.fromarray(((pixels - low) * (255 / max(high - low, 1e-9))).astype(np.uint8))


def same_groups(prints: Sequence[Fingerprint]) -> list[int]:
    """Return the group of each picture. Exact and near copies form one group; its number is the first one's index."""
    group = list(range(len(prints)))

    def find(index: int) -> int:
        while group[index] != index:
            group[index] = group[group[index]]
            index = group[index]
        return index

    def join(one: int, other: int) -> None:
        one, other = find(one), find(other)
        group[max(one, other)] = min(one, other)

    first: dict[str, int] = {}
    for index, item in enumerate(prints):
        join(first.setdefault(item.content, index), index)
    for one, other in near_pairs([item.thumbnail for item in prints]):
        join(one, other)
    return [find(index) for index in range(len(prints))]


def near_pairs(thumbnails: Sequence[bytes | None]) -> list[tuple[int, int]]:
    """Return pairs of pictures that show the same, the smaller index first. Exact copies are among them."""
    pixels = np.stack([np.frombuffer(item or bytes(SIDE * SIDE), np.uint8) for item in thumbnails]).astype(np.float32)
    pixels -= pixels.mean(axis=1, keepdims=True)
    index = np.flatnonzero(pixels.std(axis=1) >= FLAT)
    if len(index) < 2:
        return []
    pixels = pixels[index]
    # Near copies are close along every direction. So after sorting along one axis, only neighbours must be compared.
    along = pixels @ _longest_axis(pixels)
    order = np.argsort(along, kind="stable")
    pixels, along, index = pixels[order], along[order], index[order]
    radius = NEAR_RMS * SIDE
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(pixels), 256):
        rows = pixels[start : start + 256]
        end = int(np.searchsorted(along, along[start + len(rows) - 1] + radius, side="right"))
        others = pixels[start:end]
        distance = _squared(rows)[:, None] + _squared(others)[None] - 2 * rows @ others.T
        for row, other in zip(*np.nonzero(distance <= radius**2), strict=True):
            if row < other and np.abs(rows[row] - others[other]).max() <= NEAR_PIXEL:
                one, two = int(index[start + row]), int(index[start + other])
                pairs.append((min(one, two), max(one, two)))
    return sorted(pairs)


def _longest_axis(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return a unit vector [SIDE x SIDE] along which the thumbnails differ much. It affects the speed only."""
    axis = pixels[0] / np.linalg.norm(pixels[0])
    for _ in range(5):
        axis = pixels.T @ (pixels @ axis)
        axis /= np.linalg.norm(axis)
    return np.asarray(axis, dtype=np.float32)


def _squared(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray((rows**2).sum(axis=1))
