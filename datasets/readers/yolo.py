"""Reads YOLO's text files: one per picture, with boxes as fractions."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import PurePosixPath
from typing import NamedTuple

from detector.datasets.images import read_upright_size
from detector.datasets.readers.collect import Collection
from detector.datasets.readers.shapes import Box, bounding_box
from detector.datasets.readers.tree import Tree, split_of
from detector.datasets.readers.yolo_pictures import label_files, listed_splits, used_pictures
from detector.datasets.readers.yolo_settings import NAME_FILES, keypoint_numbers, read_names
from detector.datasets.records import MarkedObject, Reading
from detector.datasets.text_files import read_text

LINE = re.compile(rb"^\s*\d+(\.0*)?(\s+[-+.\deE]+){4,}\s*$")
BOM = b"\xef\xbb\xbf"


def find(tree: Tree) -> list[str]:
    """Return the text files with names of pictures, if most of the first non-empty ones hold rows of numbers."""
    files = [
        path
        for path in tree.having(".txt")
        if tree.matches_picture(path) and PurePosixPath(path).name.lower() not in NAME_FILES
    ]
    heads = (tree.head(path).removeprefix(BOM).strip() for path in files)
    rows = [bool(LINE.match(head.splitlines()[0])) for head in islice(filter(None, heads), 10)]
    return files if rows and sum(rows) * 2 > len(rows) else []


def read(tree: Tree, files: list[str]) -> Reading:
    """Return one record per picture. A picture without text file has no objects, as in YOLO.

    Fractions are those of the picture as viewers show it: YOLO's programs turn pictures as EXIF says.

    Raises ValueError if no file names the classes, or if files name different classes.
    """
    names, settings, where = read_names(tree)
    found = Collection(tree)
    label_file = label_files(tree, files, found)
    listed = listed_splits(tree, settings, where, found)
    keypoints = keypoint_numbers(settings)
    without, polygons = 0, 0
    for picture in used_pictures(tree, label_file, listed, where, found):
        source = label_file.get(picture)
        try:
            width, height = read_upright_size(tree.full(picture))
            lines = [] if source is None else _lines(tree, source, names, keypoints)
            objects = [_object(line, names, width, height) for line in lines]
        except ValueError as error:
            found.fault(picture, error)
            continue
        without += source is None
        polygons += sum(len(line.place) > 4 for line in lines)
        full = tree.full(source or picture)
        found.add(picture, full, (width, height), objects, listed.get(picture) or split_of(picture))
    if without:
        found.notes.append(f"{without} pictures have no text file and count as pictures without objects")
    if polygons:
        found.notes.append(
            f"{polygons} objects have more than four numbers: they are read as polygons, with their boxes"
        )
    lost = _without_picture(tree, files)
    if lost:
        found.notes.append(f"{len(lost)} text files with boxes have no picture and are left out (first: {lost[0]})")
    return found.reading(f"YOLO folder: {len(found)} pictures, {len(names)} classes named in {where}", names)


def _without_picture(tree: Tree, files: Sequence[str]) -> list[str]:
    """Return the text files in the label folders that hold rows of numbers but have no picture."""
    known, folders = set(files), {path.rpartition("/")[0] for path in files}
    return [
        path
        for path in tree.having(".txt")
        if path not in known and path.rpartition("/")[0] in folders and LINE.match(tree.head(path).split(b"\n")[0])
    ]


class _Line(NamedTuple):
    """An object of a text file."""

    label: int
    place: list[float]  # centre and size, or the corners of a polygon, as fractions
    where: str


def _lines(tree: Tree, path: str, names: Sequence[str], keypoints: int) -> list[_Line]:
    """Return the objects of a file. Raises ValueError naming the file and the line."""
    full = tree.full(path)
    lines = []
    for number, line in enumerate(read_text(full).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{full}: line {number}"
        try:
            values = [float(value) for value in line.replace(",", " ").split()]
        except ValueError as error:
            raise ValueError(f"{where} is {line.strip()[:60]!r}; expected a class number and 4 fractions") from error
        if not values:
            raise ValueError(f"{where} is {line.strip()[:60]!r}; expected a class number and 4 fractions")
        label, rest = values[0], values[1:]
        if not math.isfinite(label) or label != int(label) or not 0 <= label < len(names):
            raise ValueError(
                f"{where} has the class {label:g}; expected 0 to {len(names) - 1} ({', '.join(names[:10])})"
            )
        if (keypoints and len(rest) == 4 + keypoints) or _have_keypoints(rest):
            rest = rest[:4]
        if len(rest) != 4 and (keypoints or len(rest) < 6 or len(rest) % 2):
            more = f", or {5 + keypoints} with keypoints (kpt_shape)" if keypoints else ", or a polygon"
            raise ValueError(f"{where} has {len(values)} numbers; expected 5 (class, centre, size){more}")
        if max(map(abs, rest)) > 2:
            raise ValueError(
                f"{where} is {line.strip()[:60]!r}; expected fractions of the picture (0 to 1), not pixels"
            )
        lines.append(_Line(int(label), rest, where))
    return lines


def _have_keypoints(values: Sequence[float]) -> bool:
    """Return True if a box and triples follow: points in it, and whether they are visible (0, 1 or 2)."""
    points = [values[place : place + 3] for place in range(4, len(values), 3)]
    if len(values) < 7 or len(points[-1]) < 3 or not all(point[2] in (0, 1, 2) for point in points):
        return False
    x, y, w, h = values[:4]
    is_inside = w > 0 and h > 0 and abs(x - 0.5) + w / 2 <= 0.51 and abs(y - 0.5) + h / 2 <= 0.51
    return is_inside and all(not seen or (abs(px - x) <= 0.6 * w and abs(py - y) <= 0.6 * h) for px, py, seen in points)


def _object(line: _Line, names: Sequence[str], width: int, height: int) -> MarkedObject:
    box_text = f"(x, y, width, height) = ({', '.join(f'{value:g}' for value in line.place[:4])})"
    return MarkedObject(names[line.label], _box(line.place, width, height), line.where, box_text)


def _box(values: Sequence[float], width: int, height: int) -> Box:
    if len(values) == 4:
        x, y, w, h = values
        return (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
    return bounding_box([(x * width, y * height) for x, y in zip(values[::2], values[1::2], strict=True)])
