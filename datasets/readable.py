"""Checks the pictures of a dataset before the first step. Unreadable pictures are faults or are skipped."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from detector.datasets.faults import Fault, raise_faults
from detector.datasets.images import ROTATED
from detector.datasets.picture_check import PictureFacts, check_pictures
from detector.datasets.sample import Annotation, Dataset
from detector.datasets.tar_shards import File

log = logging.getLogger("detector")


@dataclass(slots=True)
class Subset:
    """Some images of a dataset."""

    dataset: Dataset
    indices: Sequence[int]
    classes: tuple[str, ...]
    annotations: Sequence[Annotation]

    def image(self, index: int) -> Tensor:
        """Return the decoded image, as the whole dataset does."""
        return self.dataset.image(self.indices[index])


@dataclass(slots=True)
class PartlyReadable:
    """A dataset with unreadable pictures. They keep their indices, and `image` raises ValueError for them."""

    dataset: Dataset
    readable: Subset  # the readable pictures
    classes: tuple[str, ...]
    annotations: Sequence[Annotation]

    def image(self, index: int) -> Tensor:
        """Return the decoded image. Raises ValueError for an unreadable image."""
        return self.dataset.image(index)


def files_of(dataset: Dataset) -> Sequence[File]:
    """Return the picture files of a dataset, in its order; none for a dataset that draws its pictures."""
    files: Sequence[File] = getattr(dataset, "files", ())
    return files


def require_readable(
    dataset: Dataset, *, decode: bool, keep_checks: bool, skip: bool, keep_indices: bool, where: str
) -> Dataset:
    """Return the dataset after a check of every picture: of its header and end, with `decode` of every pixel.

    With `keep_checks`, the results are stored for the next start (`check_cache.py`).

    A picture is a fault if it is unreadable, or if its size differs from its annotation. Without `skip`, all faults
    are raised together as FaultyDataError. With `skip`, these pictures are reported and left out; with `keep_indices`,
    they keep their indices, for a view that replaces them by other images (`TrainingView`).
    """
    files = files_of(dataset)
    if not files:
        return dataset
    facts = check_pictures(files, decode=decode, keep=keep_checks)
    faults = [
        Fault(item.image_id, problem)
        for item, path, fact in zip(dataset.annotations, files, facts, strict=True)
        if (problem := picture_problem(item, path, fact))
    ]
    rotated = sum(is_rotated(item, fact) for item, fact in zip(dataset.annotations, facts, strict=True))
    if rotated:
        log.info("%s: %d pictures are rotated by EXIF, since their annotation fits only then", where, rotated)
    ignored = [
        item.image_id
        for item, fact in zip(dataset.annotations, facts, strict=True)
        if fact.orientation not in (0, 1) and not is_rotated(item, fact) and not fact.problem
    ]
    if ignored:
        log.warning(
            "%s: %d pictures have an EXIF rotation, but their annotation fits without it; viewers show them turned: do "
            "their boxes fit? (first: %s)",
            where, len(ignored), ignored[0],
        )  # fmt: skip
    if not faults:
        return dataset
    if not skip:
        raise_faults(f"{where} (dataset.on_unreadable=skip leaves them out)", faults)
    faulty = {fault.image_id for fault in faults}
    kept = [index for index, item in enumerate(dataset.annotations) if item.image_id not in faulty]
    if not kept:
        raise_faults(where, faults)
    log.warning(
        "%s: %d of %d pictures cannot be used and are skipped (first: %s)",
        where, len(faults), len(files), faults[0].message,
    )  # fmt: skip
    readable = Subset(dataset, kept, dataset.classes, [dataset.annotations[index] for index in kept])
    return PartlyReadable(dataset, readable, dataset.classes, dataset.annotations) if keep_indices else readable


def picture_problem(annotation: Annotation, path: File, fact: PictureFacts) -> str | None:
    """Return the problem of a picture, given its annotation; None if there is none."""
    if fact.problem or fact.size == (annotation.width, annotation.height) or is_rotated(annotation, fact):
        return fact.problem
    return (
        f"{path}: the image is {fact.size[0]}x{fact.size[1]}, its annotation says "
        f"{annotation.width}x{annotation.height}, so the boxes do not fit; correct the annotation or the image"
    )


def is_rotated(annotation: Annotation, fact: PictureFacts) -> bool:
    """Return True if the picture has the size of its annotation only after the EXIF rotation."""
    stated = (annotation.width, annotation.height)
    return fact.size != stated and fact.size[::-1] == stated and fact.orientation in ROTATED
