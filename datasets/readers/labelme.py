"""Reads LabelMe's JSON: one file per picture, with rectangles, polygons and circles."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from detector.datasets.json_files import id_text, numbers, positive_int, read_json, rows
from detector.datasets.readers.collect import Collection
from detector.datasets.readers.json_kinds import json_files
from detector.datasets.readers.shapes import Box, bounding_box
from detector.datasets.readers.tree import Tree, split_of
from detector.datasets.records import MarkedObject, Reading

AROUND = ("circle", "rotation", "oriented_rectangle")  # shapes whose box may extend beyond the picture
FLAT = ("point", "points", "line", "linestrip")  # shapes without area


def find(tree: Tree) -> list[str]:
    """Return the annotation files, and other JSON files with the name of a picture, which may be damaged ones."""
    files = json_files(tree, "labelme")
    if not files:
        return []
    known, other = set(files), {*json_files(tree, "coco"), *json_files(tree, "label_studio")}
    return [
        path for path in tree.having(".json") if path in known or (path not in other and tree.matches_picture(path))
    ]


def read(tree: Tree, files: list[str]) -> Reading:
    """Return one record per file. Its picture has the same name as the file, or is named in it."""
    found = Collection(tree)
    for path in files:
        try:
            _add(found, tree, path)
        except ValueError as error:  # noqa: PERF203
            found.fault(path, error)
    found.note_left_out("have no annotation")
    return found.reading(f"LabelMe folder: {len(found)} pictures with one JSON file each")


def _add(found: Collection, tree: Tree, path: str) -> None:
    full = tree.full(path)
    content = read_json(full)
    shapes = rows(content, "shapes", full)
    named = content.get("imagePath")
    picture = tree.picture_with_stem(path)
    if picture is None and isinstance(named, str):
        picture = tree.picture_named(named, path, is_pair=True)
    if picture is None:
        remedy = "the file contains the picture: save it there" if content.get("imageData") else "restore it"
        other = tree.of_other_kind(path)
        raise ValueError(f"{full}: no picture of this name in {tree.root}, nor {named!r}{other}; {remedy}")
    size = None
    if content.get("imageWidth") or content.get("imageHeight"):
        size = (
            positive_int(content.get("imageWidth"), f"{full}: imageWidth"),
            positive_int(content.get("imageHeight"), f"{full}: imageHeight"),
        )
    skipped_shapes: Counter[str] = Counter()
    objects = []
    for number, shape in enumerate(shapes):
        kind = shape.get("shape_type") or "polygon"
        if kind in FLAT:
            skipped_shapes[str(kind)] += 1
        else:
            objects.append(_object(shape, str(kind), f"{full}: shape {number}"))
    found.skipped_shapes += skipped_shapes
    found.add(picture, full, size, objects, split_of(picture) or split_of(path))


def _object(shape: dict[str, Any], kind: str, where: str) -> MarkedObject:
    name = id_text(shape.get("label"), f"{where}: its label")
    points = shape.get("points")
    if not isinstance(points, list) or len(points) < 2:
        raise ValueError(f"{where} has no list of points; expected two or more; correct or remove it")
    corners = [numbers(point, 2, f"{where}: a point") for point in points]
    box_text = f"{kind} {[list(corner) for corner in corners[:4]]}"
    flags = shape.get("flags") if isinstance(shape.get("flags"), dict) else {}
    assert isinstance(flags, dict)
    difficult = bool(shape.get("difficult") or flags.get("difficult"))
    return MarkedObject(name, _box(kind, corners), where, box_text, difficult=difficult, is_around=kind in AROUND)


def _box(kind: str, corners: list[tuple[float, ...]]) -> Box:
    if kind == "circle":  # its centre and a point on it
        (x, y), (px, py) = corners[0], corners[1]
        radius = math.hypot(px - x, py - y)
        return x - radius, y - radius, x + radius, y + radius
    return bounding_box(corners)
