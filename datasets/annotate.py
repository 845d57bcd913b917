"""Turns records into annotations. Boxes are checked, clipped and labelled only here."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from detector.datasets.faults import Fault
from detector.datasets.images import read_image, read_size
from detector.datasets.records import MarkedObject, Record
from detector.datasets.sample import Annotation
from detector.datasets.tar_shards import File

log = logging.getLogger("detector")

INSIDE = 0.9  # a box with at least this fraction of its area inside the image is clipped
ROUNDING = 1.0  # pixels beyond the edge that come from rounding, or from counting from 0; clipped without a warning


class Annotated(NamedTuple):
    """The usable pictures of a dataset."""

    annotations: list[Annotation]
    files: list[File]


def annotate(
    records: Sequence[Record],
    classes: Sequence[str],
    faults: list[Fault],
    *,
    strict: bool,
    where: str,
    leave_out_faulty: bool = False,
) -> Annotated:
    """Return the annotations of records and their pictures. Add the faults of the records to `faults`.

    A box with at most a tenth of its area beyond the edge is clipped, with one warning for all such boxes. With
    `strict` it is a fault. A record with faults is left out; with `leave_out_faulty`, only its faulty objects are.
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
            if problem is None and crosses_edge(item, width, height):
                case = f"{item.where}, {item.box_text} in {width}x{height}"
                clipped += [] if strict else [case]
                if strict:
                    problem = f"{case}, extends beyond the edge; correct it, or set dataset.strict=false"
            if problem is None:
                usable.append(item)
            else:
                faults.append(Fault(record.image_id, problem))
        if leave_out_faulty or len(usable) == len(record.objects):
            made.annotations.append(_annotation(record, usable, width, height, label_of))
            made.files.append(record.file)
    if clipped:
        log.warning(
            "%s: %d boxes extend beyond the edge of their image and are clipped (first: %s); dataset.strict=true "
            "makes them faults",
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
    """Return the reason why a box cannot be used in an image of this size. None if it can."""
    x1, y1, x2, y2 = item.box
    if not all(map(math.isfinite, item.box)):
        return f"{item.where} has a box that is not finite, {item.box_text}; correct or remove it"
    # If corners are pixel numbers, a side of one pixel is valid in principle. But the published files have no such box,
    # and broken files do.
    least = 0 if item.pixel_base is None else 1
    if not (x2 - x1 > least and y2 - y1 > least):
        return f"{item.where} has no area or is inverted, {item.box_text}; correct or remove it"
    inside = max(0.0, min(x2, width) - max(x1, 0.0)) * max(0.0, min(y2, height) - max(y1, 0.0))
    # A box of few pixels can lose a tenth of its area by rounding.
    if inside > 0 and (not crosses_edge(item, width, height) or inside >= INSIDE * (x2 - x1) * (y2 - y1)):
        return None
    if item.pixel_base == 1 and min(x1, y1) < 0:
        return (
            f"{item.where} starts before pixel 1, {item.box_text}, but these boxes count from 1; "
            "correct it, or set dataset.box_base=zero if all files count from 0"
        )
    return f"{item.where} lies outside the image of {width}x{height}, {item.box_text}; correct or remove it"


def crosses_edge(item: MarkedObject, width: int, height: int) -> bool:
    """Return True if a box extends beyond its image by more than the rounding of its format."""
    x1, y1, x2, y2 = item.box
    before = ROUNDING if item.pixel_base is None else 0
    # Tools that count pixels from 0 often write the size of the image as the maximum.
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


def read_annotated(path: File, annotation: Annotation, bit_depth: int | None = None) -> Tensor:
    """Return the picture [3, H, W] uint8 of an annotation. `bit_depth` is as in `images.to_pixels`.

    Raises ValueError if the picture cannot be read, or its size differs from the annotation's.
    """
    image = read_image(path, bit_depth=bit_depth, size=(annotation.width, annotation.height))
    if (image.shape[2], image.shape[1]) != (annotation.width, annotation.height):
        raise ValueError(
            f"{path}: the image is {image.shape[2]}x{image.shape[1]}, its annotation says "
            f"{annotation.width}x{annotation.height}, so the boxes do not fit; correct the annotation or the image"
        )
    return image
