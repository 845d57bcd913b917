"""The common record: what every reader of an annotation format gives for one picture.

Readers only read. Whether a box is usable, which label a name has and which split a picture belongs to is decided
afterwards, once for all formats (`annotate.py`, `splits.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from detector.datasets.faults import Fault


class MarkedObject(NamedTuple):
    """One object as a file states it."""

    name: str
    box: tuple[float, float, float, float]  # xyxy pixels, 0-based, half-open; unchecked
    where: str  # file and element, the begin of a message
    told: str  # the box in the file's own words
    difficult: bool = False
    truncated: bool = False
    occluded: bool = False
    pixel_base: int | None = None  # corners that name pixels, counted from 0 or 1; None: positions between pixels


@dataclass(frozen=True, slots=True)
class Record:
    """One picture with its objects."""

    image_id: str
    file: Path  # the picture
    source: Path  # the file that annotates it
    size: tuple[int, int] | None  # stated width, height; None if the format or the file has none
    objects: tuple[MarkedObject, ...]
    splits: frozenset[str] = frozenset()  # train, val, test ... as found; empty: the folder has no splits


@dataclass(slots=True)
class Reading:
    """Everything that a reader found in a folder."""

    told: str  # one line: the format and what there is of it
    records: list[Record] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what is only odd, one line each
    classes: tuple[str, ...] | None = None  # in the order of the format; None if it has no list of its own


def fraction_faults(records: Sequence[Record]) -> list[Fault]:
    """A fault if no box of a data set leaves the first pixel: readers have scaled the fractions that a format has."""
    objects = [(record.image_id, item) for record in records for item in record.objects]
    if not objects or not all(max(map(abs, item.box)) <= 1 for _, item in objects):  # not so: NaN
        return []
    image_id, first = objects[0]
    return [
        Fault(
            image_id,
            f"{first.where} is {first.told}, and none of {len(objects)} boxes leaves the first pixel: fractions? "
            "This format has pixels; multiply them by the size of their picture",
        )
    ]


def with_ids(files: Sequence[str]) -> list[str]:
    """Image ids of relative picture paths: their bare names if these differ, else their paths, without suffixes."""
    paths = [path.rpartition(".")[0] for path in files]
    names = [path.rpartition("/")[2] for path in paths]
    return next((ids for ids in (names, paths) if len(set(ids)) == len(ids)), list(files))
