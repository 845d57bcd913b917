"""COCO-format annotations: one JSON file and a folder of images.

Labels count the file's categories in the order of their ids. A crowd region (`iscrowd`) marks objects that are not
told apart, so it becomes a `difficult` object: the VOC metric neither asks for it nor punishes finding it. A training
that should not learn from crowds excludes difficult objects (sampling.use_difficult=false).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detector.datasets.faults import Fault, raise_faults
from detector.datasets.images import read_image
from detector.datasets.sample import Annotation

log = logging.getLogger("detector")


class COCODataset:
    """Images and annotations of one annotation file; an image's id is its `id`, as text."""

    classes: tuple[str, ...]
    annotations: Sequence[Annotation]

    def __init__(self, path: Path, images: Path, *, need_images: bool = True) -> None:
        """`path` is the annotation file, `images` the folder that its file names are relative to.

        Without `need_images` the pictures may be absent: to score result files.

        Raises ValueError for a file that is not of this format, and its subclass FaultyDataError with every image
        that is missing and every annotation that cannot be used. Boxes without area, which the published files have,
        are left out with a warning.
        """
        content = _read(path)
        try:
            categories = sorted(content["categories"], key=lambda item: int(item["id"]))
            label_of = {int(item["id"]): label for label, item in enumerate(categories, start=1)}
            self.classes = tuple(str(item["name"]) for item in categories)
            records = {int(item["id"]): item for item in content["images"]}
            objects: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in records}
            faults: list[Fault] = []
            for item in content["annotations"]:
                problem = _problem(item, records, label_of)
                if problem:
                    faults.append(Fault(str(item["image_id"]), f"{path}: annotation {item.get('id')} {problem}"))
                else:
                    objects[int(item["image_id"])].append(item)
            names = {image_id: str(item["file_name"]) for image_id, item in records.items()}
            sizes = {image_id: (int(item["width"]), int(item["height"])) for image_id, item in records.items()}
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: expected COCO's format (images, annotations, categories and their fields), but {error} "
                "is absent or of another type; correct the file"
            ) from error
        if need_images:
            present = _listing({images / name for name in names.values()})
            faults += [
                Fault(str(image_id), f"{images / name}: no such image, but {path} names it")
                for image_id, name in names.items()
                if images / name not in present
            ]
        raise_faults(str(path), faults)
        empty = sum(min(item["bbox"][2:]) == 0 for items in objects.values() for item in items)
        if empty:
            log.warning("%s: %d boxes without area are left out", path, empty)
        self.files = [images / name for name in names.values()]
        self.annotations = [
            _annotation(image_id, *sizes[image_id], items, label_of) for image_id, items in objects.items()
        ]

    def image(self, index: int) -> Tensor:
        """The decoded image [3, H, W] uint8. Raises ValueError if it cannot be read or is not of the stated size."""
        image = read_image(self.files[index])
        expected = self.annotations[index]
        if (image.shape[2], image.shape[1]) != (expected.width, expected.height):
            raise ValueError(
                f"{self.files[index]}: the image is {image.shape[2]}x{image.shape[1]}, its annotation says "
                f"{expected.width}x{expected.height}; boxes would not fit: correct width and height or the image"
            )
        return image


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such annotation file; set dataset.train and dataset.test to COCO JSON") from error
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error}); restore the file") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: expected an object with images, annotations, categories; got {type(content).__name__}"
        )
    return content


def _problem(item: dict[str, Any], records: dict[int, Any], label_of: dict[int, int]) -> str | None:
    """What makes an annotation unusable. COCO's boxes are rounded to two decimals: a pixel beyond is clipped."""
    record = records.get(int(item["image_id"]))
    if record is None:
        return f"is of image {item['image_id']}, which `images` has not; remove one or add the other"
    if int(item["category_id"]) not in label_of:
        known = ", ".join(map(str, list(label_of)[:10]))
        return f"has the unknown category {item['category_id']}; known: {known}"
    x, y, width, height = (float(value) for value in item["bbox"])
    if not (width >= 0 and height >= 0):
        return f"has an inverted box, (x, y, width, height) = {item['bbox']}; correct or remove it"
    if min(x, y) < -1 or x + width > record["width"] + 1 or y + height > record["height"] + 1:
        size = f"{record['width']}x{record['height']}"
        return f"lies outside its image of {size}, (x, y, width, height) = {item['bbox']}; correct or remove it"
    return None


def _listing(files: set[Path]) -> set[Path]:
    """Which of the files exist, by one listing of each of their folders."""
    folders = {file.parent for file in files}
    return {file for folder in folders if folder.is_dir() for file in folder.iterdir()} & files


def _annotation(
    image_id: int, width: int, height: int, objects: Sequence[dict[str, Any]], label_of: dict[int, int]
) -> Annotation:
    kept = [item for item in objects if min(item["bbox"][2:]) > 0]
    x, y, w, h = torch.tensor([item["bbox"] for item in kept], dtype=torch.float32).reshape(-1, 4).unbind(1)
    limits = torch.tensor([width, height, width, height], dtype=torch.float32)
    return Annotation(
        image_id=str(image_id),
        width=width,
        height=height,
        boxes=torch.stack((x, y, x + w, y + h), dim=1).clamp(min=0).minimum(limits),
        labels=torch.tensor([label_of[int(item["category_id"])] for item in kept], dtype=torch.int64),
        difficult=torch.tensor([bool(item.get("iscrowd", 0)) for item in kept], dtype=torch.bool),
        truncated=torch.zeros(len(kept), dtype=torch.bool),
        occluded=torch.zeros(len(kept), dtype=torch.bool),
    )
