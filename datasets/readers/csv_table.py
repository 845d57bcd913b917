"""Reads CSV with one object per line. Columns have names that many tools use, or names from dataset.columns.

A table without a header is read as keras-retinanet's: path, x1, y1, x2, y2, class. There, a line without corners is a
picture without objects.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from detector.datasets.images import read_size
from detector.datasets.readers import open_images
from detector.datasets.readers.collect import Collection, find_picture
from detector.datasets.readers.tables import columns_of, first_lines, read_table
from detector.datasets.readers.tree import SPLITS, Tree, split_of, split_of_list
from detector.datasets.records import MarkedObject, Reading

NAMES = {
    "picture": ("filename", "file_name", "image", "image_path", "imagepath", "image_name", "img", "path", "file",
                "image_id", "imageid", "img_path", "img_file", "images"),
    "class": ("class", "label", "class_name", "classname", "category", "name", "labels", "category_name", "object"),
    "x1": ("xmin", "x1", "x_min", "left", "bbox_x1", "x0", "xtl", "x_1"),
    "y1": ("ymin", "y1", "y_min", "top", "bbox_y1", "y0", "ytl", "y_1"),
    "x2": ("xmax", "x2", "x_max", "right", "bbox_x2", "xbr", "x_2"),
    "y2": ("ymax", "y2", "y_max", "bottom", "bbox_y2", "ybr", "y_2"),
    "x": ("x", "bbox_x", "box_x"),
    "y": ("y", "bbox_y", "box_y"),
    "w": ("w", "bbox_w", "bbox_width", "box_w", "box_width"),
    "h": ("h", "bbox_h", "bbox_height", "box_h", "box_height"),
    "box": ("bbox", "box", "bounding_box"),
    "width": ("width", "image_width", "img_width"),
    "height": ("height", "image_height", "img_height"),
    "split": ("split", "subset", "set", "usage"),
}  # fmt: skip
HEADLESS = ("picture", "x1", "y1", "x2", "y2", "class")


class _Layout(NamedTuple):
    """The columns of a table."""

    of: dict[str, int]  # part of an object -> column
    comma: bool = False  # numbers may have decimal commas, since another delimiter separates the cells

    def cell(self, cells: Sequence[str], part: str) -> str:
        index = self.of.get(part)
        return "" if index is None or index >= len(cells) else cells[index]


@dataclass(slots=True)
class _Picture:
    """The lines about one picture."""

    path: str  # the table
    objects: list[MarkedObject] = field(default_factory=list)
    splits: set[str] = field(default_factory=set)
    sizes: set[tuple[int, int]] = field(default_factory=set)  # width and height in the table


def find(tree: Tree, columns: Mapping[str, str]) -> list[str]:
    """Return the tables that have columns for a picture and for a box, with empty files, which are faults."""
    files = [path for path in tree.having(".csv", ".tsv") if _usable(tree, path, columns)]
    return [*files, *tree.blank(".csv", ".tsv")] if files else []


def _usable(tree: Tree, path: str, columns: Mapping[str, str]) -> bool:
    head = columns_of(tree.head(path))
    if open_images.is_boxes(head):
        return False
    if _is_headless(tree.head(path)):
        return True
    parts = _layout_of(head, columns).of
    return "picture" in parts and any(
        set(group) <= parts.keys() for group in (("x1", "y1", "x2", "y2"), "xywh", ("box",))
    )


def _is_headless(head: bytes) -> bool:
    """Return True if the first line is a row, or if most of the first lines are: the first row may be faulty."""
    rows = [_is_row(cells) for cells in first_lines(head, 10)]
    return bool(rows) and (rows[0] or 2 * sum(rows) > len(rows))


def _is_row(cells: Sequence[str]) -> bool:
    return len(cells) == 6 and (all(_is_number(cell) for cell in cells[1:5]) or not any(cells[1:])) and bool(cells[0])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _layout_of(head: Sequence[str], columns: Mapping[str, str]) -> _Layout:
    """Return the columns by dataset.columns, else by the names that tools use."""
    by_name = {cell.strip().lower(): index for index, cell in reversed(list(enumerate(head)))}
    layout = {part: by_name[name] for part, names in NAMES.items() for name in names[::-1] if name in by_name}
    layout |= {part: by_name[name.strip().lower()] for part, name in columns.items() if name.strip().lower() in by_name}
    if "x1" not in layout and {"x", "y", "width", "height"} <= layout.keys() and "w" not in layout:
        layout |= {"w": layout.pop("width"), "h": layout.pop("height")}
    return _Layout(layout)


def read(tree: Tree, files: list[str], columns: Mapping[str, str]) -> Reading:
    """Read the tables. Raises ValueError for a missing class column, or a missing column of dataset.columns."""
    unknown = sorted(columns.keys() - NAMES.keys())
    if unknown:
        raise ValueError(f"dataset.columns has the key {unknown[0]!r}; expected keys from {', '.join(NAMES)}")
    found = Collection(tree)
    pictures: dict[str, _Picture] = {}
    for path in files:
        _read_one(tree, path, columns, found, pictures)
    are_fractions = _scale_fractions(tree, pictures, found)
    are_stated = not are_fractions and _state_picture_sizes(pictures.values())
    for name, item in pictures.items():
        size = next(iter(item.sizes)) if are_stated and item.sizes else None
        split = frozenset(item.splits) or split_of_list(item.path) or split_of(name)
        found.add(name, tree.full(item.path), size, item.objects, split)
    found.note_left_out("are in no table")
    return found.reading(f"CSV: {len(found)} pictures, {', '.join(files[:4])}")


def _read_one(
    tree: Tree,
    path: str,
    columns: Mapping[str, str],
    found: Collection,
    pictures: dict[str, _Picture],
) -> None:
    full = tree.full(path)
    headless = _is_headless(tree.head(path))
    table = read_table(full, has_head=not headless)
    layout = _Layout({part: at for at, part in enumerate(HEADLESS)}) if headless else _layout_of(table.columns, columns)
    layout = layout._replace(comma=table.delimiter != ",")
    width = len(HEADLESS) if headless else len(table.columns)
    for part, name in columns.items():
        if not headless and name.strip().lower() not in {column.lower() for column in table.columns}:
            raise ValueError(
                f"{full}: dataset.columns.{part}={name}: no such column; it has {', '.join(table.columns)}"
            )
    if "class" not in layout.of:
        raise ValueError(
            f"{full}: no class column; it has {', '.join(table.columns)}; name the class column with "
            "dataset.columns.class=NAME"
        )
    split = split_of_list(path)
    known: dict[str, str] = {}
    unknown: Counter[str] = Counter()  # unknown names of splits
    for line, cells in table.rows:
        name = layout.cell(cells, "picture")
        where = f"{full}: line {line}"
        try:
            if any(cells[width:]):
                raise ValueError(f"{where} has {len(cells)} cells; expected {width}; quote cells that hold a comma")
            if name not in known:
                known[name] = find_picture(tree, name, path, split, where=where)
            picture = pictures.setdefault(known[name], _Picture(path))
            named = layout.cell(cells, "split")
            if named:
                picture.splits |= split_of(f"{named}/x")
                unknown[named] += not split_of(f"{named}/x")
            picture.sizes |= _stated_size(layout, cells)
            marked = _object(layout, cells, where)
        except ValueError as error:
            found.fault(name or where, error)
        else:
            picture.objects += [] if marked is None else [marked]
    if +unknown:
        names = ", ".join(f"{name!r} ({count})" for name, count in (+unknown).items())
        found.notes.append(f"{full}: lines with the unknown split {names} have no split; known: {', '.join(SPLITS)}")


def _stated_size(layout: _Layout, cells: Sequence[str]) -> set[tuple[int, int]]:
    """Return the width and height in a line; empty if there are none, or no whole numbers."""
    try:
        width, height = (float(layout.cell(cells, part)) for part in ("width", "height"))
        return {(int(width), int(height))} if min(width, height) >= 1 and width % 1 == height % 1 == 0 else set()
    except (ValueError, OverflowError):
        return set()


def _state_picture_sizes(pictures: Iterable[_Picture]) -> bool:
    """Return True if the columns width and height are those of pictures: the same in all lines of a picture.

    In some tables they are the sizes of the boxes.
    """
    stated = [item for item in pictures if item.sizes]
    of_boxes = [
        (round(x2 - x1), round(y2 - y1)) in item.sizes
        for item in stated
        for x1, y1, x2, y2 in (marked.box for marked in item.objects)
        if all(map(math.isfinite, (x1, y1, x2, y2)))
    ]
    return all(len(item.sizes) == 1 for item in stated) and not all(of_boxes)


def _object(layout: _Layout, cells: Sequence[str], where: str) -> MarkedObject | None:
    """Return the object of a line; None if the line only names a picture."""
    parts = next(
        (parts for parts in (("x1", "y1", "x2", "y2"), ("x", "y", "w", "h")) if set(parts) <= layout.of.keys()), None
    )
    texts = (
        [layout.cell(cells, part) for part in parts] if parts else layout.cell(cells, "box").strip("[](){}").split(",")
    )
    name = layout.cell(cells, "class")
    if not any(text.strip() for text in texts):
        return None
    try:
        a, b, c, d = (float(_with_point(text) if layout.comma else text) for text in texts)
    except ValueError as error:
        raise ValueError(f"{where} has the box {texts}; expected four numbers; correct or remove the line") from error
    if not name:
        raise ValueError(f"{where} has a box but no class; add the class or remove the line")
    corners = parts == ("x1", "y1", "x2", "y2")
    box_text = f"({', '.join(parts or ('x', 'y', 'w', 'h'))}) = ({a:g}, {b:g}, {c:g}, {d:g})"
    return MarkedObject(name, (a, b, c, d) if corners else (a, b, a + c, b + d), where, box_text)


def _with_point(text: str) -> str:
    return text.replace(",", ".") if text.count(",") == 1 and "." not in text else text


def _scale_fractions(tree: Tree, pictures: Mapping[str, _Picture], found: Collection) -> bool:
    """Scale the boxes to pixels if they are fractions: if no number is above 1. Return True if they are."""
    boxes = [item.box for picture in pictures.values() for item in picture.objects]
    if not boxes or max(max(box) for box in boxes) > 1.001:
        return False
    for name, picture in pictures.items():
        width, height = read_size(tree.full(name))
        for at, item in enumerate(picture.objects):
            x1, y1, x2, y2 = item.box
            picture.objects[at] = item._replace(box=(x1 * width, y1 * height, x2 * width, y2 * height))
    found.notes.append("boxes are read as fractions of their pictures, since no number is above 1")
    return True
