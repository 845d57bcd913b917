"""LabelMe's JSON: one file a picture, with rectangles, polygons and circles."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from detector.datasets.json_files import numbers, read_json, rows, text, whole
from detector.datasets.readers.collect import Collection
from detector.datasets.readers.json_kinds import json_files
from detector.datasets.readers.shapes import Box, around
from detector.datasets.readers.tree import Tree, split_of
from detector.datasets.records import MarkedObject, Reading

FLAT = ("point", "points", "line", "linestrip")  # shapes without area


def find(tree: Tree) -> list[str]:
    """The annotation files; those beside them that are called like a picture too: they may be damaged."""
    files = json_files(tree, "labelme")
    if not files:
        return []
    known, other = set(files), {*json_files(tree, "coco"), *json_files(tree, "label_studio")}
    return [
        path
        for path in tree.having(".json")
        if path in known or (path not in other and tree.called_like_a_picture(path))
    ]


def read(tree: Tree, files: list[str]) -> Reading:
    """One record a file; the picture is the one called like it, or the one that it names."""
    found = Collection(tree)
    for path in files:
        try:
            _add(found, tree, path)
        except ValueError as error:  # noqa: PERF203
            found.fault(path, error)
    found.tell_left_out("have no annotation")
    return found.reading(f"LabelMe folder: {len(found)} pictures, a JSON file each")


def _add(found: Collection, tree: Tree, path: str) -> None:
    full = tree.full(path)
    content = read_json(full)
    shapes = rows(content, "shapes", full)
    named = content.get("imagePath")
    picture = tree.picture_with_stem(path)
    if picture is None and isinstance(named, str):
        picture = tree.picture_named(named, path)
    if picture is None:
        embedded = "; the file holds the picture itself: save it" if content.get("imageData") else "; restore it"
        raise ValueError(f"{full}: no picture of this name below {tree.root}, nor {named!r}{embedded}")
    size = None
    if content.get("imageWidth") or content.get("imageHeight"):
        size = (
            whole(content.get("imageWidth"), f"{full}: imageWidth"),
            whole(content.get("imageHeight"), f"{full}: imageHeight"),
        )
    passed_over: Counter[str] = Counter()
    objects = []
    for number, shape in enumerate(shapes):
        kind = shape.get("shape_type") or "polygon"
        if kind in FLAT:
            passed_over[str(kind)] += 1
        else:
            objects.append(_object(shape, str(kind), f"{full}: shape {number}"))
    found.passed_over += passed_over
    found.add(picture, full, size, objects, split_of(picture) or split_of(path))


def _object(shape: dict[str, Any], kind: str, where: str) -> MarkedObject:
    name = text(shape.get("label"), f"{where}: its label")
    points = shape.get("points")
    if not isinstance(points, list) or len(points) < 2:
        raise ValueError(f"{where} has no list of points; expected two or more; correct or remove it")
    corners = [numbers(point, 2, f"{where}: a point") for point in points]
    told = f"{kind} {[list(corner) for corner in corners[:4]]}"
    flags = shape.get("flags") if isinstance(shape.get("flags"), dict) else {}
    assert isinstance(flags, dict)
    difficult = bool(shape.get("difficult") or flags.get("difficult"))
    return MarkedObject(name.strip(), _box(kind, corners), where, told, difficult=difficult)


def _box(kind: str, corners: list[tuple[float, ...]]) -> Box:
    if kind == "circle":  # its middle, and a point on it
        (x, y), (px, py) = corners[0], corners[1]
        radius = math.hypot(px - x, py - y)
        return x - radius, y - radius, x + radius, y + radius
    return around(corners)
