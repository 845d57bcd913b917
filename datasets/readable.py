"""The check of a dataset's pictures before the first step: those that cannot be read are refused or skipped."""

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


@dataclass(slots=True)
class Gapped:
    """A dataset some of whose pictures cannot be read. They keep their places; `image` raises ValueError for them."""

    dataset: Dataset
    readable: Subset  # without those pictures
    classes: tuple[str, ...]
    annotations: Sequence[Annotation]

    def image(self, index: int) -> Tensor:
        """The decoded image. Raises ValueError if it is one of those that cannot be read."""
        return self.dataset.image(index)


def files_of(dataset: Dataset) -> Sequence[Path]:
    """The pictures of a dataset in its order; none for one that makes them itself."""
    files: Sequence[Path] = getattr(dataset, "files", ())
    return files


def require_readable(
    dataset: Dataset, *, decode: bool, keep_checks: bool, skip: bool, keep_places: bool, where: str
) -> Dataset:
    """The dataset after a check of every picture: of its header and its end, with `decode` of every pixel.

    With `keep_checks` what was found is kept for the next start (`check_cache.py`).

    Without `skip` a picture that cannot be read, or is of another size than its annotation says, is a fault; all of
    them are raised together as FaultyDataError. With `skip` they are reported and left out; with `keep_places` they
    stay, for a view that takes another image in their place (`TrainingView`).
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
    readable = Subset(dataset, kept, dataset.classes, [dataset.annotations[index] for index in kept])
    return Gapped(dataset, readable, dataset.classes, dataset.annotations) if keep_places else readable


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
