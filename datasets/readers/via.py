"""Reads the JSON and CSV of the VGG Image Annotator (VIA): regions of any shape, with attributes that a user names."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from detector.datasets.json_files import number, numbers, read_json
from detector.datasets.readers.collect import Collection, find_picture
from detector.datasets.readers.json_kinds import json_files
from detector.datasets.readers.shapes import Box, bounding_box
from detector.datasets.readers.tables import columns_of, read_table
from detector.datasets.readers.tree import Tree, split_of, split_of_list
from detector.datasets.records import MarkedObject, Reading

COLUMNS = {"region_shape_attributes", "region_attributes"}  # of its CSV
USUAL = ("class", "label", "category", "name", "type", "object")  # attributes that name the class in most projects
FLAT = ("point", "polyline")  # shapes without area


class _Region(NamedTuple):
    """A region of a picture; None as shape for a picture without regions."""

    picture: str  # as the file names it
    shape: dict[str, Any] | None
    attributes: dict[str, Any]
    where: str


def find(tree: Tree) -> list[str]:
    """Return the JSON files and tables of VIA."""
    tables = [path for path in tree.having(".csv") if COLUMNS.issubset(columns_of(tree.head(path)))]
    return [*json_files(tree, "via"), *tables]


def read(tree: Tree, files: list[str], columns: Mapping[str, str]) -> Reading:
    """Read the files. `columns["class"]` is the attribute that names the class.

    Raises ValueError if the attribute is not clear, or if a file has another structure.
    """
    found = Collection(tree)
    regions = {
        path: list(_of_table(tree, path) if path.lower().endswith(".csv") else _of_json(tree, path)) for path in files
    }
    attribute = columns.get("class") or _class_attribute([item for rows in regions.values() for item in rows], tree)
    for path, rows in regions.items():
        split = split_of_list(path)
        pictures: dict[str, list[_Region]] = defaultdict(list)
        for item in rows:
            pictures[item.picture].append(item)
        for name, items in pictures.items():
            try:
                picture = find_picture(tree, name, path, split)
                objects = [_object(item, attribute, found.skipped_shapes) for item in items if item.shape is not None]
            except ValueError as error:  # noqa: PERF203
                found.fault(name, error)
            else:
                kept = [item for item in objects if item is not None]
                found.add(picture, tree.full(path), None, kept, split or split_of(picture))
    found.note_left_out("are in no project file")
    return found.reading(f"VIA: {len(found)} pictures, {', '.join(files[:4])}, class from {attribute!r}")


def _of_json(tree: Tree, path: str) -> Iterator[_Region]:
    full = tree.full(path)
    content = read_json(full)
    if isinstance(content, dict):
        content = content.get("_via_img_metadata", content)
    if not isinstance(content, dict) or not all(isinstance(item, dict) for item in content.values()):
        raise ValueError(f"{full}: expected VIA's object of pictures; export the annotations as JSON again")
    for key, item in content.items():
        name, regions = item.get("filename"), item.get("regions", [])
        if isinstance(regions, dict):  # VIA 1
            regions = list(regions.values())
        if not isinstance(name, str) or not isinstance(regions, list):
            raise ValueError(f"{full}: {key}: expected a filename and a list of regions; export the file again")
        yield _Region(name, None, {}, f"{full}: {name}")
        for place, region in enumerate(regions):
            where = f"{full}: {name}, region {place}"
            parts = [
                region.get(part) if isinstance(region, dict) else None
                for part in ("shape_attributes", "region_attributes")
            ]
            yield _Region(name, _mapping(parts[0], where), _mapping(parts[1], where), where)


def _of_table(tree: Tree, path: str) -> Iterator[_Region]:
    full = tree.full(path)
    table = read_table(full)
    at = {column.lstrip("#"): place for place, column in enumerate(table.columns)}
    if "filename" not in at:
        raise ValueError(f"{full}: no column filename; it has {', '.join(table.columns)}; export the file again")
    for line, cells in table.rows:
        where = f"{full}: line {line}"
        if len(cells) != len(table.columns):
            raise ValueError(f"{where} has {len(cells)} cells; expected {len(table.columns)}; export the file again")
        shape, attributes = (
            _mapping(_parsed(cells[at[key]]), where) for key in ("region_shape_attributes", "region_attributes")
        )
        yield _Region(cells[at["filename"]], shape or None, attributes, where)


def _parsed(cell: str) -> Any:
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return None


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected shape and attributes as JSON objects; export the file again")
    return value


def _class_attribute(regions: list[_Region], tree: Tree) -> str:
    """Return the attribute that names the class. Raises ValueError if there is none, or if several may be meant."""
    counts = Counter(key for item in regions for key in item.attributes)
    usual = [key for key in counts if key.lower() in USUAL]
    names = list(counts) if len(counts) == 1 else usual
    if len(names) == 1:
        return names[0]
    listed = ", ".join(f"{key} ({count})" for key, count in counts.items())
    if not counts:
        raise ValueError(
            f"{tree.setting}: the regions of VIA's file have no attribute with their class; add one in VIA"
        )
    raise ValueError(
        f"{tree.setting}: the regions of VIA's file have the attributes {listed}; choose the one that names the class "
        f"with dataset.columns.class={next(iter(counts))}"
    )


def _object(item: _Region, attribute: str, skipped: Counter[str]) -> MarkedObject | None:
    """Return a region as an object; None for a point or line."""
    shape = item.shape or {}
    kind = str(shape.get("name"))
    if kind in FLAT:
        skipped[kind] += 1
        return None
    value = item.attributes.get(attribute)
    if isinstance(value, dict):  # check boxes
        marked = [key for key, is_set in value.items() if is_set]
        value = marked[0] if len(marked) == 1 else value
    if number(value) is not None:
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{item.where}: its {attribute} is {value!r}; expected one class name; correct it in VIA")
    box = _box(kind, shape, item.where)
    text = f"{kind} around (x1, y1, x2, y2) = ({', '.join(f'{side:g}' for side in box)})"
    return MarkedObject(value.strip(), box, item.where, text, is_around=kind in ("circle", "ellipse"))


def _box(kind: str, shape: dict[str, Any], where: str) -> Box:
    def values(*keys: str) -> tuple[float, ...]:
        return numbers([shape.get(key) for key in keys], len(keys), f"{where}: its {', '.join(keys)}")

    if kind == "rect":
        x, y, width, height = values("x", "y", "width", "height")
        return x, y, x + width, y + height
    if kind == "circle":
        x, y, radius = values("cx", "cy", "r")
        return x - radius, y - radius, x + radius, y + radius
    if kind == "ellipse":
        x, y, rx, ry = values("cx", "cy", "rx", "ry")
        turn = number(shape.get("theta")) or 0.0  # radians
        across = math.hypot(rx * math.cos(turn), ry * math.sin(turn))
        down = math.hypot(rx * math.sin(turn), ry * math.cos(turn))
        return x - across, y - down, x + across, y + down
    if kind == "polygon":
        xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
        count = len(xs) if isinstance(xs, list) else 0
        points = zip(*(numbers(side, count, f"{where}: its points") for side in (xs, ys)), strict=True)
        if count < 3:
            raise ValueError(f"{where}: a polygon of {count} points; expected three or more; correct or remove it")
        return bounding_box(list(points))
    raise ValueError(f"{where}: unknown shape {kind!r}; expected rect, polygon, circle or ellipse")
