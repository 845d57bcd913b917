"""Reads one file of COCO's format: its categories, and its images with their objects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from detector.datasets.faults import Fault
from detector.datasets.json_files import id_text, numbers, positive_int, read_json, rows, sorted_ids, text
from detector.datasets.records import MarkedObject
from detector.datasets.tar_shards import File


@dataclass(slots=True)
class CocoImage:
    """An image of the file, with its objects."""

    image_id: str
    file_name: str
    size: tuple[int, int] | None  # width, height; None if the file does not state it
    objects: list[MarkedObject] = field(default_factory=list)


@dataclass(slots=True)
class CocoFile:
    """The usable content of a file, and the faults in the rest."""

    path: File
    categories: dict[str, str]  # id: name, in the order of the ids
    images: list[CocoImage]
    faults: list[Fault]
    num_empty: int  # number of boxes without area, which are left out; the published files have such boxes
    num_outlined: int  # number of objects without a bbox, which get the box around their polygons


def notes_of(files: Sequence[CocoFile]) -> list[str]:
    """Return one line for each way in which objects of the files were changed or left out."""
    empty, outlined = sum(file.num_empty for file in files), sum(file.num_outlined for file in files)
    notes = [f"{empty} boxes without area are left out"] if empty else []
    return [*notes, f"{outlined} objects have no bbox: their box is around their polygons"] if outlined else notes


def read_coco(path: File) -> CocoFile:
    """Read a file. Raises ValueError for another format, or for ambiguous ids or names."""
    content = read_json(path)
    categories = _categories(content, path)
    images: dict[str, CocoImage] = {}
    of_file: dict[str, str] = {}
    for place, item in enumerate(rows(content, "images", path)):
        where = f"{path}: image {item.get('id', f'number {place}')}"
        image_id = id_text(item.get("id"), f"{path}: the id of image number {place}")
        name = text(item.get("file_name"), f"{where}: its file_name")
        if image_id in images:
            raise ValueError(f"{where}: two images have this id ({images[image_id].file_name}, {name}); renumber one")
        if name in of_file:
            raise ValueError(f"{where}: image {of_file[name]} has the same file {name}; remove one of them")
        of_file[name] = image_id
        size = None
        if item.get("width") or item.get("height"):
            size = (
                positive_int(item.get("width"), f"{where}: its width"),
                positive_int(item.get("height"), f"{where}: its height"),
            )
        images[image_id] = CocoImage(image_id, name, size)
    found = CocoFile(path, categories, list(images.values()), [], 0, 0)
    for place, item in enumerate(rows(content, "annotations", path)):
        where = f"{path}: annotation {item.get('id', f'number {place}')}"
        image_id = str(item.get("image_id"))
        try:
            image_id = id_text(item.get("image_id"), f"{where} has an image_id that")
            if image_id not in images:
                raise ValueError(
                    f"{where} is for image {image_id}, which is not in `images`; remove it or add the image"
                )
            outline = _outline(item, where)
            marked = _object(item if outline is None else {**item, "bbox": outline}, where, categories)
        except ValueError as error:
            found.faults.append(Fault(image_id, str(error)))
            continue
        found.num_outlined += outline is not None
        if marked is None:
            found.num_empty += 1
        else:
            images[image_id].objects.append(marked)
    return found


def _categories(content: Any, path: File) -> dict[str, str]:
    names: dict[str, str] = {}
    for place, item in enumerate(rows(content, "categories", path)):
        key = id_text(item.get("id"), f"{path}: the id of category number {place}")
        name = id_text(item.get("name"), f"{path}: category {key}: its name")
        if key in names:
            raise ValueError(
                f"{path}: two categories have the id {key} ({names[key]}, {name}); give one of them another id"
            )
        if name in names.values():
            other = next(known for known, value in names.items() if value == name)
            raise ValueError(f"{path}: categories {other} and {key} are both named {name!r}; rename or merge them")
        names[key] = name
    if not names:
        raise ValueError(f"{path}: `categories` is empty; expected the classes there, as in COCO's format")
    return {key: names[key] for key in sorted_ids(list(names))}


def _outline(item: dict[str, Any], where: str) -> list[float] | None:
    """Return the box [x, y, width, height] around the polygons of an annotation that has no box; None if it has one."""
    polygons = item.get("segmentation")
    if item.get("bbox") or not isinstance(polygons, list) or not polygons:
        return None
    points = [
        point
        for polygon in polygons
        for point in numbers(polygon, len(polygon) if isinstance(polygon, list) else 0, f"{where}: a polygon")
    ]
    if not points or len(points) % 2:
        return None
    if not all(map(math.isfinite, points)):
        return [math.nan] * 4
    x, y = points[::2], points[1::2]
    return [min(x), min(y), max(x) - min(x), max(y) - min(y)]


def _object(item: dict[str, Any], where: str, categories: dict[str, str]) -> MarkedObject | None:
    """Return an annotation as an object; None if its box has no area."""
    category = id_text(item.get("category_id"), f"{where} has a category_id that")
    if category not in categories:
        known = ", ".join(list(categories)[:10])
        raise ValueError(f"{where} has the unknown category {category}; known: {known}")
    x, y, width, height = numbers(item.get("bbox"), 4, f"{where} has a bbox that")
    box_text = f"(x, y, width, height) = {item['bbox']}"
    if width < 0 or height < 0:
        raise ValueError(f"{where} has an inverted box, {box_text}; correct or remove it")
    if width == 0 or height == 0:
        return None
    # A crowd is one box around many objects.
    crowd = str(item.get("iscrowd")).lower() in ("1", "1.0", "true")
    box = (x, y, x + width, y + height)
    return MarkedObject(categories[category], box, where, box_text, difficult=crowd)
