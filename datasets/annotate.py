"""From records to annotations: the one place where boxes are checked, clipped and given labels."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from detector.datasets.faults import Fault
from detector.datasets.images import read_image, read_size
from detector.datasets.records import MarkedObject, Record
from detector.datasets.sample import Annotation

log = logging.getLogger("detector")

INSIDE = 0.9  # of a box's area: from here on what lies outside of the image is clipped
ROUNDING = 1.0  # pixels over the edge that come of rounding, or of counting from 0; clipped without a word


class Annotated(NamedTuple):
    """The usable pictures of a dataset."""

    annotations: list[Annotation]
    files: list[Path]


def annotate(
    records: Sequence[Record],
    classes: Sequence[str],
    faults: list[Fault],
    *,
    strict: bool,
    where: str,
    mend: bool = False,
) -> Annotated:
    """The annotations of records, and their pictures. What is wrong with a record is added to `faults`.

    A box that reaches over the edge with at most a tenth of its area is clipped and told in one line; with `strict` it
    is a fault. A record with faults is left out; with `mend` only its faulty objects are.
    """
    made = Annotated([], [])
    label_of = {name: label for label, name in enumerate(classes, start=1)}
    clipped: list[str] = []
    for record in records:
        try:
            width, height = record.size or read_size(record.file)
        except ValueError as error:
            faults.append(Fault(record.image_id, str(error)))
            continue
        usable = []
        for item in record.objects:
            problem = _name_problem(item, label_of) or box_problem(item, width, height)
            if problem is None and reaches_over(item, width, height):
                told = f"{item.where}, {item.told} in {width}x{height}"
                clipped += [] if strict else [told]
                if strict:
                    problem = f"{told}, reaches over the edge; correct it, or set dataset.strict=false"
            if problem is None:
                usable.append(item)
            else:
                faults.append(Fault(record.image_id, problem))
        if mend or len(usable) == len(record.objects):
            made.annotations.append(_annotation(record, usable, width, height, label_of))
            made.files.append(record.file)
    if clipped:
        log.warning(
            "%s: %d boxes reach over the edge of their image and are clipped (first: %s); dataset.strict=true "
            "refuses them",
            where, len(clipped), clipped[0],
        )  # fmt: skip
    return made


def _name_problem(item: MarkedObject, label_of: dict[str, int]) -> str | None:
    if item.name in label_of:
        return None
    close = difflib.get_close_matches(item.name, label_of, n=1, cutoff=0.5)
    nearest = f"did you mean {close[0]!r}" if close else f"known: {', '.join(list(label_of)[:20])}"
    return f"{item.where} has the unknown class {item.name!r}; {nearest}; correct it or extend dataset.classes"


def box_problem(item: MarkedObject, width: int, height: int) -> str | None:
    """Why a box cannot be used in an image of this size, or None."""
    x1, y1, x2, y2 = item.box
    if not all(map(math.isfinite, item.box)):
        return f"{item.where} has a box that is not finite, {item.told}; correct or remove it"
    # One pixel is legal in principle where corners name pixels; the published files have no such box, broken ones do.
    least = 0 if item.pixel_base is None else 1
    if not (x2 - x1 > least and y2 - y1 > least):
        return f"{item.where} has no area or is inverted, {item.told}; correct or remove it"
    inside = max(0.0, min(x2, width) - max(x1, 0.0)) * max(0.0, min(y2, height) - max(y1, 0.0))
    # A box of few pixels may lose a tenth by rounding alone.
    if inside > 0 and (not reaches_over(item, width, height) or inside >= INSIDE * (x2 - x1) * (y2 - y1)):
        return None
    if item.pixel_base == 1 and min(x1, y1) < 0:
        return (
            f"{item.where} begins before pixel 1, {item.told}, but these boxes count from 1; "
            "correct it, or set dataset.box_base=zero if all files count from 0"
        )
    return f"{item.where} lies outside the image of {width}x{height}, {item.told}; correct or remove it"


def reaches_over(item: MarkedObject, width: int, height: int) -> bool:
    """Whether a box leaves its image by more than the rounding of its format."""
    x1, y1, x2, y2 = item.box
    before = ROUNDING if item.pixel_base is None else 0
    # Tools that count pixels from 0 often write the image's size as the maximum.
    beyond = 0 if item.pixel_base == 1 else ROUNDING
    return max(-x1, -y1) > before or max(x2 - width, y2 - height) > beyond


def _annotation(
    record: Record, objects: Sequence[MarkedObject], width: int, height: int, label_of: dict[str, int]
) -> Annotation:
    boxes = torch.tensor([item.box for item in objects], dtype=torch.float32).reshape(-1, 4)
    limits = torch.tensor([width, height, width, height], dtype=torch.float32)
    return Annotation(
        image_id=record.image_id,
        width=width,
        height=height,
        boxes=boxes.clamp(min=0).minimum(limits),
        labels=torch.tensor([label_of[item.name] for item in objects], dtype=torch.int64),
        difficult=torch.tensor([item.difficult for item in objects], dtype=torch.bool),
        truncated=torch.tensor([item.truncated for item in objects], dtype=torch.bool),
        occluded=torch.tensor([item.occluded for item in objects], dtype=torch.bool),
    )


def read_annotated(path: Path, annotation: Annotation, bit_depth: int | None = None) -> Tensor:
    """The picture [3, H, W] uint8 of an annotation; `bit_depth` is that of the dataset, see `images.to_pixels`.

    Raises ValueError if it cannot be read, or is not of the size that the annotation states.
    """
    image = read_image(path, bit_depth=bit_depth, size=(annotation.width, annotation.height))
    if (image.shape[2], image.shape[1]) != (annotation.width, annotation.height):
        raise ValueError(
            f"{path}: the image is {image.shape[2]}x{image.shape[1]}, its annotation says "
            f"{annotation.width}x{annotation.height}; boxes would not fit: correct the size in the annotation or the "
            "image"
        )
    return image
