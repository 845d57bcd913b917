"""The common record of one picture, which the readers of all annotation formats return.

Readers only read. Other files check boxes, assign labels and choose the split of a picture, once for all formats
(`annotate.py`, `folder.py`, `splits.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from detector.datasets.faults import Fault
from detector.datasets.tar_shards import File


class MarkedObject(NamedTuple):
    """One object as in the file."""

    name: str
    box: tuple[float, float, float, float]  # xyxy pixels, 0-based, half-open; unchecked
    where: str  # file and element, for the start of a message
    box_text: str  # the box as written in the file
    difficult: bool = False
    truncated: bool = False
    occluded: bool = False
    is_around: bool = False  # the box around a turned or round shape, which the edge of the picture may cut
    pixel_base: int | None = None  # corners are pixel numbers, counted from 0 or 1; None: positions between pixels


@dataclass(frozen=True, slots=True)
class Record:
    """One picture with its objects."""

    image_id: str
    file: File  # the picture
    source: File  # the annotation file
    size: tuple[int, int] | None  # width, height from the annotation; None if it has none
    objects: tuple[MarkedObject, ...]
    splits: frozenset[str] = frozenset()  # train, val, test ... as in the folder; empty: no splits


@dataclass(slots=True)
class Reading:
    """The content of a folder, from its reader."""

    summary: str  # one line: the format and the number of pictures
    records: list[Record] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # oddities that are not faults, one line each
    classes: tuple[str, ...] | None = None  # in the order of the format's class list; None if it has no list


def fraction_faults(records: Sequence[Record]) -> list[Fault]:
    """Return a fault if all boxes of a dataset are inside the first pixel.

    Such boxes are fractions in a format of pixels. Readers of formats with fractions have already scaled them.
    """
    objects = [(record.image_id, item) for record in records for item in record.objects]
    if not objects or not all(max(map(abs, item.box)) <= 1 for _, item in objects):  # false for NaN
        return []
    image_id, first = objects[0]
    return [
        Fault(
            image_id,
            f"{first.where} is {first.box_text}, and all {len(objects)} boxes are inside the first pixel; expected "
            "pixels in this format: if these are fractions, multiply them by the size of their picture",
        )
    ]


def image_ids_of(files: Sequence[str]) -> list[str]:
    """Return image ids for relative picture paths: the names if all differ, else the paths, without suffixes.

    Ids are written to files, so bytes of a path that are not UTF-8 become text such as \\udce9.
    """
    files = [path.encode(errors="backslashreplace").decode() for path in files]
    paths = [path.rpartition(".")[0] for path in files]
    names = [path.rpartition("/")[2] for path in paths]
    return next((ids for ids in (names, paths) if len(set(ids)) == len(ids)), files)
