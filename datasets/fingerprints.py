"""What pictures contain, whatever they are called: exact copies by a hash of the file, near ones by a tiny picture."""

from __future__ import annotations

import hashlib
import os
from base64 import b64decode, b64encode
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image
from tqdm import tqdm

from detector.datasets.check_cache import cached_results
from detector.datasets.images import UNREADABLE
from detector.datasets.picture_check import MANY

SIDE = 16  # of the tiny picture
# Two tiny pictures are of one photograph if their brightness differs by no more, once the means are equal. Compressing
# or resizing a photograph moves a cell by about one; an object that moves through a still scene moves a few by tens.
NEAR_RMS = 2.0
NEAR_CELL = 8.0
VERSION = f"1, Pillow {PIL.__version__}"
FLAT = 2.0  # standard deviation below which a picture has nothing to be recognised by


class Fingerprint(NamedTuple):
    """What one picture contains."""

    content: str  # hash of the file's bytes
    tiny: bytes | None  # SIDE x SIDE grey cells; None if the picture cannot be decoded


def fingerprints(files: Sequence[Path], *, keep: bool = False) -> list[Fingerprint]:
    """The fingerprint of each picture, by threads; with `keep` they are kept for the next call (`check_cache.py`).

    Raises OSError for a file that cannot be read at all.
    """

    def take_all(paths: Sequence[Path]) -> list[Fingerprint]:
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            found = pool.map(fingerprint, paths)
            hidden = None if len(paths) >= MANY else True  # None: shown on a terminal only
            return list(tqdm(found, "comparing pictures", len(paths), unit="", disable=hidden, leave=False))

    if not keep:
        return take_all(files)
    return cached_results("contents", files, take_all, version=VERSION, to_json=_to_json, from_json=_from_json)


def _to_json(found: Fingerprint) -> list[str] | None:
    return None if found.tiny is None else [found.content, b64encode(found.tiny).decode()]


def _from_json(value: list[str]) -> Fingerprint:
    content, tiny = str(value[0]), b64decode(value[1])
    if len(tiny) != SIDE * SIDE:
        raise ValueError("not a fingerprint")
    return Fingerprint(content, tiny)


def fingerprint(path: Path) -> Fingerprint:
    """The fingerprint of one picture."""
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        with Image.open(path) as picture:
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
    """For each picture the number of its group: exact and near copies share one, the first's index."""
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
    for one, other in near_pairs([item.tiny for item in prints]):
        join(one, other)
    return [find(index) for index in range(len(prints))]


def near_pairs(tiny: Sequence[bytes | None]) -> list[tuple[int, int]]:
    """Pairs of pictures, the smaller index first, that show the same. Exact copies of one file are among them."""
    cells = np.stack([np.frombuffer(item or bytes(SIDE * SIDE), np.uint8) for item in tiny]).astype(np.float32)
    cells -= cells.mean(axis=1, keepdims=True)
    index = np.flatnonzero(cells.std(axis=1) >= FLAT)
    if len(index) < 2:
        return []
    cells = cells[index]
    # Near pictures are near along any direction too: sorted along the longest axis, few need to be compared.
    along = cells @ _longest_axis(cells)
    order = np.argsort(along, kind="stable")
    cells, along, index = cells[order], along[order], index[order]
    radius = NEAR_RMS * SIDE
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(cells), 256):
        rows = cells[start : start + 256]
        end = int(np.searchsorted(along, along[start + len(rows) - 1] + radius, side="right"))
        others = cells[start:end]
        distance = _squared(rows)[:, None] + _squared(others)[None] - 2 * rows @ others.T
        for row, other in zip(*np.nonzero(distance <= radius**2), strict=True):
            if row < other and np.abs(rows[row] - others[other]).max() <= NEAR_CELL:
                one, two = int(index[start + row]), int(index[start + other])
                pairs.append((min(one, two), max(one, two)))
    return sorted(pairs)


def _longest_axis(cells: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A direction [SIDE x SIDE] of unit length along which the pictures differ much; which one only costs time."""
    axis = cells[0] / np.linalg.norm(cells[0])
    for _ in range(5):
        axis = cells.T @ (cells @ axis)
        axis /= np.linalg.norm(axis)
    return np.asarray(axis, dtype=np.float32)


def _squared(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray((rows**2).sum(axis=1))
