"""A dataset's pictures before the first step: those that cannot be read are told, and refused or skipped."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from detector.datasets.faults import Fault, raise_faults
from detector.datasets.images import TURNED
from detector.datasets.picture_check import PictureFacts, check_pictures
from detector.datasets.sample import Annotation, Dataset

log = logging.getLogger("detector")


@dataclass(slots=True)
class Subset:
    """Some images of a dataset."""

    dataset: Dataset
    indices: Sequence[int]
    classes: tuple[str, ...]
    annotations: Sequence[Annotation]

    def image(self, index: int) -> Tensor:
        """The decoded image, as the whole dataset gives it."""
        return self.dataset.image(self.indices[index])


def files_of(dataset: Dataset) -> Sequence[Path]:
    """The pictures of a dataset in its order; none for one that makes them itself."""
    files: Sequence[Path] = getattr(dataset, "files", ())
    return files


def require_readable(dataset: Dataset, *, skip: bool, keep_places: bool, where: str) -> Dataset:
    """The dataset, once the header and the end of every picture were looked at.

    Without `skip` a picture that cannot be read, or is of another size than its annotation says, is a fault; all of
    them are raised together as FaultyDataError. With `skip` they are told and left out; or, with `keep_places`, left
    where they are for a view that takes another image in their place (`TrainingView`).
    """
    files = files_of(dataset)
    if not files:
        return dataset
    facts = check_pictures(files)
    faults = [
        Fault(item.image_id, problem)
        for item, path, fact in zip(dataset.annotations, files, facts, strict=True)
        if (problem := picture_problem(item, path, fact))
    ]
    turned = sum(is_turned(item, fact) for item, fact in zip(dataset.annotations, facts, strict=True))
    if turned:
        log.info("%s: %d pictures are turned upright by EXIF: only so their annotation's size fits", where, turned)
    if not faults:
        return dataset
    if not skip:
        raise_faults(f"{where} (dataset.on_unreadable=skip goes on without them)", faults)
    faulty = {fault.image_id for fault in faults}
    kept = [index for index, item in enumerate(dataset.annotations) if item.image_id not in faulty]
    if not kept:
        raise_faults(where, faults)
    log.warning(
        "%s: %d of %d pictures cannot be used and are skipped (first: %s)",
        where, len(faults), len(files), faults[0].message,
    )  # fmt: skip
    if keep_places:
        return dataset
    return Subset(dataset, kept, dataset.classes, [dataset.annotations[index] for index in kept])


def picture_problem(annotation: Annotation, path: Path, fact: PictureFacts) -> str | None:
    """What is wrong with a picture, given its annotation."""
    if fact.problem or fact.size == (annotation.width, annotation.height) or is_turned(annotation, fact):
        return fact.problem
    return (
        f"{path}: the image is {fact.size[0]}x{fact.size[1]}, its annotation says "
        f"{annotation.width}x{annotation.height}; boxes would not fit: correct the size in the annotation or the image"
    )


def is_turned(annotation: Annotation, fact: PictureFacts) -> bool:
    """Whether only the picture that EXIF turns upright has the size that its annotation states."""
    stated = (annotation.width, annotation.height)
    return fact.size != stated and fact.size[::-1] == stated and fact.orientation in TURNED
