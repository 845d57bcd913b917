"""Reads YOLO's text files: one per picture, boxes as fractions; class names in data.yaml, classes.txt or obj.names."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]

from detector.datasets.images import SUFFIXES, read_size
from detector.datasets.readers.collect import Collection
from detector.datasets.readers.shapes import Box, bounding_box
from detector.datasets.readers.tree import Tree, split_of
from detector.datasets.records import MarkedObject, Reading
from detector.datasets.text_files import read_text

LINE = re.compile(rb"^\s*\d+(\.0*)?(\s+[-+.\deE]+){4,}\s*$")
LISTS = ("classes.txt", "obj.names", "labels.txt", "_darknet.labels")  # files of class names, one per line
SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "test": "test"}


def find(tree: Tree) -> list[str]:
    """Return the text files with names of pictures, if most of the first non-empty ones hold rows of numbers."""
    files = [
        path
        for path in tree.having(".txt")
        if tree.matches_picture(path) and PurePosixPath(path).name.lower() not in LISTS
    ]
    heads = [head for head in (tree.head(path).lstrip(b"\xef\xbb\xbf").strip() for path in files[:50]) if head]
    rows = [bool(LINE.match(head.splitlines()[0])) for head in heads[:10]]
    return files if rows and sum(rows) * 2 > len(rows) else []


def read(tree: Tree, files: list[str]) -> Reading:
    """Return one record per picture. A picture without text file has no objects, as in YOLO.

    Raises ValueError if no file names the classes, or if files name different classes.
    """
    names, settings, where = _names(tree)
    label_file: dict[str, str] = {}
    found = Collection(tree)
    for path in files:
        try:
            picture = tree.picture_with_stem(path)
        except ValueError as error:
            found.fault(path, error)
            continue
        if picture is not None:
            label_file[picture] = path
    listed = _listed_splits(tree, settings, where, found)
    keypoints = _keypoints(settings)
    without, polygons = 0, 0
    for picture in tree.pictures:
        source = label_file.get(picture)
        try:
            width, height = read_size(tree.full(picture))
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


def _names(tree: Tree) -> tuple[tuple[str, ...], dict[str, Any], str]:
    """Return the class names, the content of the YAML file with them (empty for other files), and the file's path."""
    found: list[tuple[tuple[str, ...], dict[str, Any], str]] = []
    for path in tree.having(".yaml", ".yml"):
        content = _yaml(tree, path)
        if "names" in content:
            names = _yaml_names(content["names"], f"{tree.full(path)}: names")
            if content.get("nc", len(names)) != len(names):
                raise ValueError(
                    f"{tree.full(path)}: nc is {content['nc']}, but {len(names)} classes are named; correct one of them"
                )
            found.append((names, content, path))
    for path in tree.having(".txt", ".names", ".labels"):
        if PurePosixPath(path).name.lower() in LISTS or path.endswith(".names"):
            lines = [line.strip() for line in read_text(tree.full(path)).strip().splitlines()]
            if "" in lines:
                raise ValueError(
                    f"{tree.full(path)}: line {lines.index('') + 1} is blank; expected a class name on each line; "
                    "add the name or remove the line"
                )
            found.append((tuple(lines), {}, path))
    if not found:
        raise ValueError(
            f"{tree.setting}: no data.yaml or classes.txt names the classes of YOLO's text files; write "
            "classes.txt, one name per line"
        )
    first = found[0]
    other = next((item for item in found if item[0] != first[0]), None)
    if other is not None:
        raise ValueError(
            f"{tree.full(first[2])} and {tree.full(other[2])} name different classes ({', '.join(first[0][:5])}; "
            f"{', '.join(other[0][:5])}); remove one of the files"
        )
    doubled = {name for name in first[0] if first[0].count(name) > 1}
    if doubled or not first[0]:
        raise ValueError(f"{tree.full(first[2])}: names {sorted(doubled) or 'nothing'} twice; name each class once")
    return first


def _yaml(tree: Tree, path: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(read_text(tree.full(path)))
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _yaml_names(names: Any, what: str) -> tuple[str, ...]:
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise ValueError(f"{what} has the keys {list(names)[:10]}; expected 0, 1, 2 ...")
        names = [names[key] for key in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str | int) for name in names):
        raise ValueError(f"{what} is {names!r}; expected a list of class names")
    return tuple(str(name).strip() for name in names)


def _listed_splits(
    tree: Tree, settings: dict[str, Any], near: str, collection: Collection
) -> dict[str, frozenset[str]]:
    """Return the splits of pictures in a YAML file, which names folders or lists of paths.

    Add a note to `collection` for a folder or list without pictures.
    """
    found: dict[str, set[str]] = {}
    for key, split in SPLIT_KEYS.items():
        values = settings.get(key) or []
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str):
                continue
            parts = [part for part in value.replace("\\", "/").split("/") if part not in ("", ".", "..")]
            pictures = _listed(tree, parts, near, collection) if value.endswith(".txt") else _below(tree, parts)
            if not pictures:
                collection.notes.append(f"{near} names {key}: {value}, but it has no pictures here")
            for picture in pictures:
                found.setdefault(picture, set()).add(split)
    return {picture: frozenset(splits) for picture, splits in found.items()}


def _below(tree: Tree, parts: Sequence[str]) -> list[str]:
    """Return the pictures below the folder whose path ends in as many of these parts as possible; all without parts."""
    if not parts:
        return tree.pictures
    for start in range(len(parts)):
        folder = "/" + "/".join(parts[start:]) + "/"
        found = [picture for picture in tree.pictures if folder in f"/{picture}"]
        if found:
            return found
    return []


def _listed(tree: Tree, parts: Sequence[str], near: str, collection: Collection) -> list[str]:
    path = next(
        (path for path in tree.having(".txt") if path.endswith("/".join(parts[-2:])) or path == parts[-1]), None
    )
    if path is None:
        return []
    lines = [line.strip() for line in read_text(tree.full(path)).splitlines()]
    pictures = {line: tree.picture_named(line, near) for line in lines if line.lower().endswith(SUFFIXES)}
    absent = [line for line, picture in pictures.items() if picture is None]
    if absent:
        collection.notes.append(f"{path} lists {len(absent)} pictures that are not here (first: {absent[0]})")
    return [picture for picture in pictures.values() if picture is not None]


def _keypoints(settings: dict[str, Any]) -> int:
    """Return how many numbers of keypoints follow each box, as `kpt_shape` in the YAML file says; 0 without it."""
    shape = settings.get("kpt_shape")
    if isinstance(shape, list) and len(shape) == 2 and all(isinstance(side, int) for side in shape):
        return int(shape[0]) * int(shape[1])
    return 0


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
        if keypoints and len(rest) == 4 + keypoints:
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


def _object(line: _Line, names: Sequence[str], width: int, height: int) -> MarkedObject:
    box_text = f"(x, y, width, height) = ({', '.join(f'{value:g}' for value in line.place[:4])})"
    return MarkedObject(names[line.label], _box(line.place, width, height), line.where, box_text)


def _box(values: Sequence[float], width: int, height: int) -> Box:
    if len(values) == 4:
        x, y, w, h = values
        return (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
    return bounding_box([(x * width, y * height) for x, y in zip(values[::2], values[1::2], strict=True)])
