"""Writes COCO's JSON: annotations/instances_train.json and instances_test.json, pictures in train/ and test/."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detector.datasets.writers.sides import Side, copy_pictures, new_folder, picture_name


def write_coco(folder: Path, sides: Sequence[Side], classes: Sequence[str]) -> list[str]:
    """Write the files. Return no warnings: the format holds everything except truncated and occluded.

    Raises ValueError if the folder is not new.
    """
    new_folder(folder)
    copy_pictures(sides, {side.name: folder / side.name for side in sides})
    (folder / "annotations").mkdir()
    for side in sides:
        content = content_of(side, classes)
        (folder / f"annotations/instances_{side.name}.json").write_text(json.dumps(content), encoding="utf-8")
    return []


def content_of(side: Side, classes: Sequence[str]) -> dict[str, Any]:
    """Return the content of the file of one split. Ids count from 1."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (item, file) in enumerate(zip(side.annotations, side.files, strict=True), start=1):
        name = picture_name(item, file)
        images.append({"id": image_id, "file_name": name, "width": item.width, "height": item.height})
        for box, label, crowd in zip(item.boxes.tolist(), item.labels.tolist(), item.difficult.tolist(), strict=True):
            x1, y1, x2, y2 = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(crowd),
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}
