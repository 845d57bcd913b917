"""Turns records into annotations. Boxes are clipped and labelled only here, after the checks of `box_faults.py`."""

from __future__ import annotations

import difflib
import logging
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from detector.datasets.box_faults import box_problem, corrected_box, crosses_edge
from detector.datasets.faults import Fault
from detector.datasets.images import read_image, read_size
from detector.datasets.records import MarkedObject, Record
from detector.datasets.sample import Annotation
from detector.datasets.tar_shards import File

log = logging.getLogger("detector")


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
    corrected: Counter[str] | None = None,
) -> Annotated:
    """Return the annotations of records and their pictures. Add the faults of the records to `faults`.

    A box with at most a tenth of its area beyond the edge is clipped, with one warning for all such boxes. With
    `strict` it is a fault. A record with faults is left out. With `corrected`, its faulty boxes are corrected by the
    rules of `box_faults.py` and counted there by rule; an object without a rule is left out.
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
                continue
            faults.append(Fault(record.image_id, problem))
            better = corrected_box(item, width, height) if corrected is not None and item.name in label_of else None
            if corrected is not None and better is not None:
                usable.append(better.item)
                corrected[better.rule] += 1
        if corrected is not None or len(usable) == len(record.objects):
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
