"""Reads CSV with one object per line. Columns have names that many tools use, or names from dataset.columns.

A table without a header is read as keras-retinanet's: path, x1, y1, x2, y2, class. There, a line without corners is a
picture without objects.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from detector.datasets.images import SUFFIXES
from detector.datasets.readers import open_images
from detector.datasets.readers.collect import Collection, find_picture
from detector.datasets.readers.csv_boxes import TablePicture, scale_fractions, settle_corners, state_picture_sizes
from detector.datasets.readers.same_objects import are_same
from detector.datasets.readers.tables import columns_of, first_lines, read_table
from detector.datasets.readers.tree import SPLITS, Tree, split_of, split_of_list
from detector.datasets.records import MarkedObject, Reading

NAMES = {  # in small letters, without blanks and punctuation: X_Min and "x min" are xmin
    "picture": ("filename", "image", "imagepath", "imagename", "img", "path", "file", "imageid", "imgpath", "imgfile",
                "images", "imagefile", "imagefilename", "filepath", "imgname", "imgid"),
    "class": ("class", "label", "classname", "category", "name", "labels", "categoryname", "object", "labelname",
              "classlabel", "classid", "categoryid", "labelid"),
    "x1": ("xmin", "x1", "left", "bboxx1", "roix1", "x0", "xtl", "bboxxmin", "boxxmin"),
    "y1": ("ymin", "y1", "top", "bboxy1", "roiy1", "y0", "ytl", "bboxymin", "boxymin"),
    "x2": ("xmax", "x2", "right", "bboxx2", "roix2", "xbr", "bboxxmax", "boxxmax"),
    "y2": ("ymax", "y2", "bottom", "bboxy2", "roiy2", "ybr", "bboxymax", "boxymax"),
    "x": ("x", "bboxx", "boxx"),
    "y": ("y", "bboxy", "boxy"),
    "cx": ("xcenter", "centerx", "xcentre", "centrex", "cx", "xc"),
    "cy": ("ycenter", "centery", "ycentre", "centrey", "cy", "yc"),
    "w": ("w", "bboxw", "bboxwidth", "boxw", "boxwidth"),
    "h": ("h", "bboxh", "bboxheight", "boxh", "boxheight"),
    "box": ("bbox", "box", "boundingbox"),
    "width": ("width", "imagewidth", "imgwidth"),
    "height": ("height", "imageheight", "imgheight"),
    "split": ("split", "subset", "set", "usage"),
}  # fmt: skip
HEADLESS = ("picture", "x1", "y1", "x2", "y2", "class")
PLACES = (("x1", "y1", "x2", "y2"), ("cx", "cy", "w", "h"), ("x", "y", "w", "h"))  # how columns give a box


class _Layout(NamedTuple):
    """The columns of a table."""

    of: dict[str, int]  # part of an object -> column
    comma: bool = False  # numbers may have decimal commas, since another delimiter separates the cells

    def cell(self, cells: Sequence[str], part: str) -> str:
        index = self.of.get(part)
        return "" if index is None or index >= len(cells) else cells[index]


def find(tree: Tree, columns: Mapping[str, str]) -> list[str]:
    """Return the tables that have columns for a picture and for a box, with empty files, which are faults."""
    files = [path for path in tree.having(".csv", ".tsv") if _usable(tree, path, columns)]
    files += [path for path in tree.having(".txt") if _is_list_of_objects(tree, path)]
    return [*files, *tree.blank(".csv", ".tsv")] if files else []


def _usable(tree: Tree, path: str, columns: Mapping[str, str]) -> bool:
    head = columns_of(tree.head(path))
    if open_images.is_boxes(head):
        return False
    return _has_names(head, columns) or _is_headless(tree.head(path), columns)


def _has_names(head: Sequence[str], columns: Mapping[str, str]) -> bool:
    """Return True if a line names the columns of a picture and a box."""
    parts = _layout_of(head, columns).of
    return "picture" in parts and any(set(group) <= parts.keys() for group in (*PLACES, ("box",)))


def _is_list_of_objects(tree: Tree, path: str) -> bool:
    """Return True for a text file with rows that begin with the name of a picture, such as the gt.txt of GTSDB."""
    if tree.matches_picture(path):
        return False
    cells = columns_of(tree.head(path))
    return _is_row(cells) and cells[0].strip().lower().endswith(SUFFIXES)


def _is_headless(head: bytes, columns: Mapping[str, str]) -> bool:
    """Return True if the first line is a row, or if most of the first lines are: the first row may be faulty."""
    lines = first_lines(head, 10)
    rows = list(map(_is_row, lines))
    return bool(rows) and (rows[0] or (2 * sum(rows) > len(rows) and not _has_names(lines[0], columns)))


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
    cells = list(enumerate(head))[::-1]
    by_name = {cell.strip().lower(): index for index, cell in cells}
    by_plain = {re.sub("[^a-z0-9]", "", cell.lower()): index for index, cell in cells}
    layout = {part: by_plain[name] for part, names in NAMES.items() for name in names[::-1] if name in by_plain}
    layout |= {part: by_name[name.strip().lower()] for part, name in columns.items() if name.strip().lower() in by_name}
    has_size = {"width", "height"} <= layout.keys() and not {"x1", "w"} & layout.keys()
    if has_size and ({"x", "y"} <= layout.keys() or {"cx", "cy"} <= layout.keys()):
        layout |= {"w": layout.pop("width"), "h": layout.pop("height")}
    return _Layout(layout)


def read(tree: Tree, files: list[str], columns: Mapping[str, str]) -> Reading:
    """Read the tables. Raises ValueError for a missing class column, or a missing column of dataset.columns."""
    unknown = sorted(columns.keys() - NAMES.keys())
    if unknown:
        raise ValueError(f"dataset.columns has the key {unknown[0]!r}; expected keys from {', '.join(NAMES)}")
    found = Collection(tree)
    tables = {path: _read_one(tree, path, columns, found) for path in files}
    rows = [(name, item) for pictures in tables.values() for name, item in pictures.items()]
    settle_corners(tree, [(name, item) for name, item in rows if item.in_one_cell], found)
    are_fractions = scale_fractions(tree, rows, found)
    are_stated = not are_fractions and state_picture_sizes([item for _, item in rows])
    for name in dict.fromkeys(name for name, _ in rows):
        of_tables = [pictures[name] for pictures in tables.values() if name in pictures]
        first = of_tables[0]
        if not all(are_same(first.objects, item.objects) for item in of_tables[1:]):  # a table for each class
            first.objects = [marked for item in of_tables for marked in item.objects]
            first.splits = {split for item in of_tables for split in _splits(item, name)}
            of_tables = [first]
        size = next(iter(first.sizes)) if are_stated and first.sizes else None
        for item in of_tables:
            found.add(name, tree.full(item.path), size, item.objects, _splits(item, name))
    found.note_left_out("are in no table")
    return found.reading(f"CSV: {len(found)} pictures, {', '.join(files[:4])}")


def _splits(item: TablePicture, name: str) -> frozenset[str]:
    return frozenset(item.splits) or split_of_list(item.path) or split_of(name)


def _read_one(tree: Tree, path: str, columns: Mapping[str, str], found: Collection) -> dict[str, TablePicture]:
    """Return the pictures of a table by their names in the tree. Raises ValueError for a missing column."""
    pictures: dict[str, TablePicture] = {}
    full = tree.full(path)
    headless = _is_headless(tree.head(path), columns)
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
            "dataset.columns.class=NAME, or add one"
        )
    in_one_cell = not any(set(group) <= layout.of.keys() for group in PLACES)
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
            picture = pictures.setdefault(known[name], TablePicture(path, in_one_cell=in_one_cell))
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
    return pictures


def _stated_size(layout: _Layout, cells: Sequence[str]) -> set[tuple[int, int]]:
    """Return the width and height in a line; empty if there are none, or no whole numbers."""
    try:
        width, height = (float(layout.cell(cells, part)) for part in ("width", "height"))
        return {(int(width), int(height))} if min(width, height) >= 1 and width % 1 == height % 1 == 0 else set()
    except (ValueError, OverflowError):
        return set()


def _object(layout: _Layout, cells: Sequence[str], where: str) -> MarkedObject | None:
    """Return the object of a line; None if the line only names a picture."""
    parts = next((parts for parts in PLACES if set(parts) <= layout.of.keys()), None)
    if parts:
        texts = [layout.cell(cells, part) for part in parts]
    else:  # [8, 8, 32, 24], and 8 8 32 24
        texts = re.split(r"\s*[,;]\s*|\s+", layout.cell(cells, "box").strip("[](){} "))
    name = layout.cell(cells, "class")
    if not any(text.strip() for text in texts):
        return None
    try:
        a, b, c, d = (float(_with_point(text) if layout.comma else text) for text in texts)
    except ValueError as error:
        raise ValueError(f"{where} has the box {texts}; expected four numbers; correct or remove the line") from error
    if not name:
        raise ValueError(f"{where} has a box but no class; add the class or remove the line")
    box_text = f"({', '.join(parts or ('x', 'y', 'w', 'h'))}) = ({a:g}, {b:g}, {c:g}, {d:g})"
    box = (a, b, c, d) if parts == PLACES[0] else (a, b, a + c, b + d)
    if parts == PLACES[1]:
        box = (a - c / 2, b - d / 2, a + c / 2, b + d / 2)
    return MarkedObject(name, box, where, box_text)


def _with_point(text: str) -> str:
    return text.replace(",", ".") if text.count(",") == 1 and "." not in text else text
