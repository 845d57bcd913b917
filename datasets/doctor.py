"""Lists all faults of a dataset before a long training, and writes an image list without the faulty images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from detector.datasets.augment import ProposalSource
from detector.datasets.faults import Fault, FaultyDataError
from detector.datasets.proposal_files import outside
from detector.datasets.sample import Dataset
from detector.datasets.voc import VOCDataset, list_path, read_split


def check_voc(root: Path, split: str, *, classes: Sequence[str] | None, box_base: str = "auto") -> list[Fault]:
    """Return a fault for each missing or faulty image or annotation of a split. It opens no images (see `check`).

    Raises ValueError if the image list of the split cannot be read.
    """
    try:
        VOCDataset(root, split, classes=classes, box_base=box_base)
    except FaultyDataError as error:
        return list(error.faults)
    return []


def check(dataset: Dataset, proposals: ProposalSource | None, *, open_images: bool) -> list[Fault]:
    """Return faults of a dataset that could be built: images with proposals outside or inverted, or without proposals.

    With `open_images`, also decode every image, which takes a few milliseconds each. A damaged image is a fault, and an
    image whose size differs from its annotation.
    """
    faults = []
    for index, annotation in enumerate(dataset.annotations):
        if open_images:
            try:
                dataset.image(index)
            except ValueError as error:
                faults.append(Fault(annotation.image_id, str(error)))
        if proposals is not None:
            boxes = proposals.boxes(index)
            wrong = int(outside(boxes, annotation).sum())
            if wrong or not len(boxes):
                problem = f"{wrong} of {len(boxes)} proposals are inverted or outside" if wrong else "no proposals"
                size = f"{annotation.width}x{annotation.height}"
                faults.append(Fault(annotation.image_id, f"image {annotation.image_id} ({size}): {problem}"))
    return faults


def write_clean_list(root: Path, split: str, faults: Sequence[Fault], name: str) -> Path:
    """Write a new image list `name` beside the split's list, without faulty images. Return its path.

    Raises ValueError for a union of splits, which has several lists, and if the new list already exists.
    """
    if "+" in split:
        raise ValueError(f"split {split} is a union; write a clean list for each part")
    path = list_path(root, split).with_name(f"{name}.txt")
    if path.exists():
        raise ValueError(f"{path} exists already; give the clean list another name or remove it")
    faulty = {fault.image_id for fault in faults}
    kept = [image_id for image_id, _ in read_split(root, split) if image_id not in faulty]
    temporary = path.with_name(f".{name}.{os.getpid()}.tmp")
    temporary.write_text("".join(f"{image_id}\n" for image_id in kept))
    os.replace(temporary, path)
    return path
