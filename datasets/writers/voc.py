"""Writes a VOC tree: Annotations/, JPEGImages/, ImageSets/Main/train.txt and test.txt. Boxes count from 1."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from detector.datasets.sample import Annotation
from detector.datasets.writers.sides import Side, copy_pictures, file_stem, new_folder, picture_name, plain


def write_voc(folder: Path, sides: Sequence[Side], classes: Sequence[str]) -> list[str]:
    """Write the tree. Return one line about boxes that it cannot hold, if there are any.

    Raises ValueError if the folder is not new.
    """
    new_folder(folder)
    copy_pictures(sides, {side.name: folder / "JPEGImages" for side in sides})
    for name in ("Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    thin = 0
    for side in sides:
        ids = [file_stem(item) for item in side.annotations]
        (folder / f"ImageSets/Main/{side.name}.txt").write_text("".join(f"{name}\n" for name in ids), encoding="utf-8")
        for item, file, stem in zip(side.annotations, side.files, ids, strict=True):
            root, left_out = annotation_element(item, picture_name(item, file), classes)
            thin += left_out
            ET.indent(root)
            ET.ElementTree(root).write(folder / f"Annotations/{stem}.xml", encoding="utf-8")
    return thin_boxes(thin)


def thin_boxes(count: int) -> list[str]:
    """Return the warning about boxes that are too thin for VOC, if there are any."""
    return [f"{count} boxes of one pixel or less are left out: VOC's corners are pixel numbers"] if count else []


def annotation_element(item: Annotation, filename: str, classes: Sequence[str]) -> tuple[ET.Element, int]:
    """Return the XML of one image, and the number of boxes that are too thin for it."""
    root = ET.Element("annotation")
    ET.SubElement(root, "filename").text = filename
    size = ET.SubElement(root, "size")
    for key, value in (("width", item.width), ("height", item.height), ("depth", 3)):
        ET.SubElement(size, key).text = str(value)
    thin = 0
    flags = zip(item.difficult.tolist(), item.truncated.tolist(), item.occluded.tolist(), strict=True)
    for box, label, (difficult, truncated, occluded) in zip(
        item.boxes.tolist(), item.labels.tolist(), flags, strict=True
    ):
        x1, y1, x2, y2 = box
        if x2 - x1 <= 1 or y2 - y1 <= 1:
            thin += 1
            continue
        element = ET.SubElement(root, "object")
        ET.SubElement(element, "name").text = classes[label - 1]
        for key, flag in (("truncated", truncated), ("occluded", occluded), ("difficult", difficult)):
            ET.SubElement(element, key).text = str(int(flag))
        corners = ET.SubElement(element, "bndbox")
        for key, value in (("xmin", x1 + 1), ("ymin", y1 + 1), ("xmax", x2), ("ymax", y2)):
            ET.SubElement(corners, key).text = plain(value)
    return root, thin
