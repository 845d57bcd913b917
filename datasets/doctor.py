"""Everything that is wrong with a dataset, before hours are spent on it; and an image list without what is wrong."""

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
    """Every image or annotation of a split that is missing or faulty; images are not opened (see `check`).

    Raises ValueError where the split's image list itself cannot be read.
    """
    try:
        VOCDataset(root, split, classes=classes, box_base=box_base)
    except FaultyDataError as error:
        return list(error.faults)
    return []


def check(dataset: Dataset, proposals: ProposalSource | None, *, open_images: bool) -> list[Fault]:
    """Faults of a dataset that could be built: proposals that are outside or inverted, or of which there are none.

    With `open_images` every image is decoded too: a damaged one, or one of another size than its annotation says, is
    a fault. That takes some milliseconds an image.
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
                told = f"{wrong} of {len(boxes)} proposals are inverted or outside" if wrong else "no proposals"
                size = f"{annotation.width}x{annotation.height}"
                faults.append(Fault(annotation.image_id, f"image {annotation.image_id} ({size}): {told}"))
    return faults


def write_clean_list(root: Path, split: str, faults: Sequence[Fault], name: str) -> Path:
    """A new image list `name` beside the split's own, without the images that have faults; returns its path.

    Raises ValueError for a union of splits, which has no one list, and where the new list exists already.
    """
    if "+" in split:
        raise ValueError(f"split {split} is a union; write a clean list for each of its parts")
    path = list_path(root, split).with_name(f"{name}.txt")
    if path.exists():
        raise ValueError(f"{path} exists already; give the clean list another name or remove it")
    faulty = {fault.image_id for fault in faults}
    kept = [image_id for image_id, _ in read_split(root, split) if image_id not in faulty]
    temporary = path.with_name(f".{name}.{os.getpid()}.tmp")
    temporary.write_text("".join(f"{image_id}\n" for image_id in kept))
    os.replace(temporary, path)
    return path
