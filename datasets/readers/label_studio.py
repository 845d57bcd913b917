"""Reads Label Studio's JSON and JSON-MIN: a list of tasks, with boxes in percent of the picture."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

from detector.datasets.images import SUFFIXES, read_size
from detector.datasets.json_files import id_text, number, numbers, positive_int, read_json
from detector.datasets.readers.collect import Collection
from detector.datasets.readers.json_kinds import json_files
from detector.datasets.readers.shapes import Box, bounding_box, rotated_box
from detector.datasets.readers.tree import Tree, split_of, split_of_list
from detector.datasets.records import MarkedObject, Reading
from detector.datasets.tar_shards import File

UPLOAD = re.compile(r"^[0-9a-f]{8}-")  # prefix of the names of uploaded pictures
SAME_SHAPE = 0.02  # two sizes have the same shape if their aspect ratios differ by at most this share
KINDS = {"rectanglelabels": "rectangle", "polygonlabels": "polygon", "ellipselabels": "ellipse", "labels": "rectangle"}


def find(tree: Tree) -> list[str]:
    """Return the export files, with empty ones, which are faults."""
    files = json_files(tree, "label_studio")
    return [*files, *tree.blank(".json")] if files else []


def read(tree: Tree, files: list[str]) -> Reading:
    """Return one record per task. If a task has several annotations, use the first that was not cancelled."""
    found = Collection(tree)
    skipped, repeated, of_several = 0, 0, 0
    for path in files:
        full = tree.full(path)
        tasks = read_json(full)
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise ValueError(f"{full}: expected Label Studio's list of tasks; export it as JSON or JSON-MIN")
        for place, task in enumerate(tasks):
            where = f"{full}: task {task.get('id', f'number {place}')}"
            try:
                results, others = _results(task, where)
                if results is None:
                    skipped += 1
                    continue
                repeated += others
                picture = _picture(tree, task, path, where)
                size = _size(results, tree.full(picture), where)
                objects = _objects(found, results, size, where)
                found.add(picture, full, size, objects, split_of_list(path) or split_of(picture))
                of_several += sum(_has_several(item) for item in results)
            except ValueError as error:
                found.fault(where, error)
    if skipped:
        found.notes.append(f"{skipped} tasks are not annotated and are left out")
    if repeated:
        found.notes.append(f"{repeated} tasks are annotated several times; the first annotation is used")
    if of_several:
        found.notes.append(f"{of_several} shapes have several labels; the first label is used")
    return found.reading(f"Label Studio JSON: {len(found)} pictures, {', '.join(files[:4])}")


def _results(task: dict[str, Any], where: str) -> tuple[list[dict[str, Any]] | None, bool]:
    """Return the shapes of a task, None if it is not annotated; and True if there are more annotations."""
    given = task.get("annotations", task.get("completions"))
    if given is None:  # JSON-MIN: the shapes are in the task itself, under the name of the labelling tool
        lists = [value for value in task.values() if _are_shapes(value)]
        return (lists[0], False) if lists else (None, False)
    if not isinstance(given, list):
        raise ValueError(f"{where}: its annotations are {type(given).__name__}; expected a list")
    done = [item for item in given if isinstance(item, dict) and not item.get("was_cancelled")]
    if not done:
        return None, False
    results = done[0].get("result")
    if not isinstance(results, list) or not all(isinstance(item, dict) for item in results):
        raise ValueError(f"{where}: its annotation has no list under 'result'; export it again")
    return results, len(done) > 1


def _are_shapes(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) and "x" in item for item in value)


def _picture(tree: Tree, task: dict[str, Any], near: str, where: str) -> str:
    data = task.get("data") if isinstance(task.get("data"), dict) else task
    assert isinstance(data, dict)
    named = [value for value in (*data.values(), task.get("file_upload")) if isinstance(value, str)]
    for value in named:
        parsed = urlparse(value)
        local = parse_qs(parsed.query).get("d")
        name = unquote(local[0] if local else parsed.path).replace("\\", "/").lstrip("/")
        if not name.lower().endswith(SUFFIXES):
            continue
        bare = UPLOAD.sub("", name.rpartition("/")[2])
        for candidate in (name, name.rpartition("/")[2], bare):
            picture = tree.picture_named(candidate, near)
            if picture is not None:
                return picture
    raise ValueError(f"{where}: its picture ({', '.join(named[:2])}) is not in {tree.root}; put the pictures there")


def _size(results: list[dict[str, Any]], picture: File, where: str) -> tuple[int, int]:
    """Return the size that the boxes' percents refer to: the size of the picture, if its shape is the stated one.

    If the shapes differ, the picture was turned or cropped. Then return the stated size, which a later check compares.
    """
    width, height = read_size(picture)
    for place, item in enumerate(results):
        values = item.get("value") if isinstance(item.get("value"), dict) else item
        assert isinstance(values, dict)
        stated = [item.get(key, values.get(key)) for key in ("original_width", "original_height")]
        if not any(stated):
            continue
        here = f"{where}, shape {place}"
        across = positive_int(stated[0], f"{here}: original_width")
        down = positive_int(stated[1], f"{here}: original_height")
        is_scaled = abs(across * height - down * width) <= SAME_SHAPE * down * width
        return (width, height) if is_scaled else (across, down)
    return width, height


def _has_several(item: dict[str, Any]) -> bool:
    value = item.get("value", item)
    return isinstance(value, dict) and any(isinstance(value.get(key), list) and len(value[key]) > 1 for key in KINDS)


def _objects(found: Collection, results: list[dict[str, Any]], size: tuple[int, int], where: str) -> list[MarkedObject]:
    objects = []
    for place, item in enumerate(results):
        value = item.get("value", item)
        key = next((key for key in KINDS if isinstance(value, dict) and value.get(key)), None)
        if key is None:
            kind = str(item.get("type") or "without a label")
            if kind not in ("choices", "textarea", "rectangle", "rating"):
                found.skipped_shapes[kind] += 1
            continue
        here = f"{where}, shape {place}"
        turned = number(item.get("image_rotation", value.get("image_rotation")))
        if turned:
            raise ValueError(
                f"{here} was drawn on the picture turned by {turned:g} degrees (image_rotation); expected 0; turn the "
                "picture back in Label Studio, or save a turned copy, and draw the box again"
            )
        name = id_text(value[key][0] if isinstance(value[key], list) else value[key], f"{here}: its label")
        box = _box(value, KINDS[key], size, here)
        box_text = "(x1, y1, x2, y2) = ({:g}, {:g}, {:g}, {:g})".format(*box)
        is_around = KINDS[key] == "ellipse" or bool(number(value.get("rotation")))
        objects.append(MarkedObject(name, box, here, box_text, is_around=is_around))
    return objects


def _box(value: dict[str, Any], kind: str, size: tuple[int, int], where: str) -> Box:
    across, down = size[0] / 100, size[1] / 100
    if kind == "polygon":
        points = value.get("points")
        if not isinstance(points, list) or not points:
            raise ValueError(f"{where} has no list of points; correct or remove it")
        corners = [numbers(point, 2, f"{where}: a point") for point in points]
        return bounding_box([(x * across, y * down) for x, y in corners])
    keys = ("x", "y", "radiusX", "radiusY") if kind == "ellipse" else ("x", "y", "width", "height")
    x, y, w, h = numbers([value.get(key) for key in keys], 4, f"{where}: its {', '.join(keys)}")
    if kind == "ellipse":
        return (x - w) * across, (y - h) * down, (x + w) * across, (y + h) * down
    turn = number(value.get("rotation")) or 0.0
    try:
        return rotated_box(x * across, y * down, w * across, h * down, turn, about_centre=False)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
