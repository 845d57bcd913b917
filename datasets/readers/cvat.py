"""Reads CVAT's XML for images: one file for a whole task."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter

from detector.datasets.readers.collect import Collection, find_picture
from detector.datasets.readers.shapes import Box, bounding_box, rotated_box
from detector.datasets.readers.tree import SPLITS, Tree, split_of, split_of_list
from detector.datasets.records import MarkedObject, Reading
from detector.datasets.tar_shards import File
from detector.datasets.xml_files import read_xml

NOT_BOXES = ("polyline", "points", "tag", "mask", "cuboid", "skeleton")
NO_SUBSET = ("", "default")  # CVAT's name for pictures without a subset
NO = {"", "0", "false", "no"}


def find(tree: Tree) -> list[str]:
    """Return the files whose root is <annotations>, followed by elements of CVAT."""
    return [path for path in tree.having(".xml") if looks_like_cvat(tree.head(path))]


def looks_like_cvat(head: bytes) -> bool:
    """Return True if the first bytes of a file are CVAT's."""
    plain = head.replace(b"\0", b"")
    return b"<annotations" in plain and any(sign in plain for sign in (b"<meta>", b"<image ", b"<track ", b"<version>"))


def read(tree: Tree, files: list[str]) -> Reading:
    """Read the files. Raises ValueError for a file in CVAT's format for video, which differs."""
    found = Collection(tree)
    unknown: Counter[str] = Counter()  # unknown names of subsets
    for path in files:
        full = tree.full(path)
        root = read_xml(full)
        if root.tag != "annotations" or root.find("track") is not None:
            raise ValueError(f"{full}: not CVAT's XML for images; export it as 'CVAT for images 1.1'")
        for image in root.findall("image"):
            name = image.get("name", "")
            named = (image.get("subset") or "").strip()
            subset = SPLITS.get(named.lower())
            unknown[named] += subset is None and named.lower() not in NO_SUBSET
            split = frozenset({subset}) if subset else split_of_list(path)
            try:
                picture = find_picture(tree, name, path, split)
                size = _whole(image, "width", full, name), _whole(image, "height", full, name)
                objects = _objects(found, image, f"{full}: image {name}")
            except ValueError as error:
                found.fault(name, error)
            else:
                found.add(picture, full, size, objects, split or split_of(picture))
    if +unknown:
        names = ", ".join(f"{name!r} ({count})" for name, count in (+unknown).items())
        found.notes.append(f"pictures of the unknown subset {names} have no split; known: {', '.join(SPLITS)}")
    found.note_left_out("are in no task")
    return found.reading(f"CVAT XML: {len(found)} pictures, {', '.join(files[:4])}")


def _whole(image: ET.Element, key: str, path: File, name: str) -> int:
    value = image.get(key)
    if value is None or not value.isdecimal() or not 0 < int(value) < 1 << 24:
        raise ValueError(f"{path}: image {name}: its {key} is {value!r}; expected a whole number of pixels")
    return int(value)


def _objects(found: Collection, image: ET.Element, where: str) -> list[MarkedObject]:
    objects = []
    for number, shape in enumerate(image):
        if shape.tag in NOT_BOXES:
            found.skipped_shapes[shape.tag] += 1
            continue
        here = f"{where}, shape {number}"
        label = (shape.get("label") or "").strip()
        try:
            box, turned = _box(shape), float(shape.get("rotation") or 0) != 0
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"{here}: <{shape.tag}> of {label!r} has no corners in numbers ({error}); correct or remove it"
            ) from error
        if box is None:
            raise ValueError(f"{here}: unknown element <{shape.tag}>; expected <box>, <polygon> or <ellipse>")
        flags = {
            (item.get("name") or "").lower(): (item.text or "").strip().lower() not in NO
            for item in shape.findall("attribute")
        }
        objects.append(
            MarkedObject(
                label,
                box,
                here,
                "(x1, y1, x2, y2) = ({:g}, {:g}, {:g}, {:g})".format(*box),
                difficult=flags.get("difficult", False),
                truncated=flags.get("truncated", False),
                occluded=shape.get("occluded") == "1" or flags.get("occluded", False),
                is_around=shape.tag == "ellipse" or turned,
            )
        )
    return objects


def _box(shape: ET.Element) -> Box | None:
    values = shape.attrib
    if shape.tag == "box":
        x1, y1, x2, y2 = (float(values[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
        if values.get("rotation"):
            return rotated_box(x1, y1, x2 - x1, y2 - y1, float(values["rotation"]), about_centre=True)
        return x1, y1, x2, y2
    if shape.tag == "polygon":
        corners = [[float(value) for value in point.split(",")] for point in values["points"].split(";")]
        if any(len(corner) != 2 for corner in corners):
            raise ValueError("expected two numbers for each point of a polygon")
        return bounding_box(corners)
    if shape.tag == "ellipse":
        cx, cy, rx, ry = (float(values[key]) for key in ("cx", "cy", "rx", "ry"))
        return cx - rx, cy - ry, cx + rx, cy + ry
    return None
