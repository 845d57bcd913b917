"""Statistics of a data set for a plan: counts, sizes, shapes and overlaps of its objects, from annotations only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from detector.datasets.sample import Annotation
from detector.ops import boxes as box_ops

LONGEST = 8.0  # an image of one row of pixels must not become a row of a million cells
MIN_OBJECTS = 10  # a class with fewer objects does not decide the image size and the stride of the map


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Statistics of a training split. A side is the square root of an area. Relative: divided by the shorter side.

    An image that is more than LONGEST times as long as wide counts as shorter: its longer side / LONGEST is used as its
    shorter side, because `input.max_side` scales it down.
    """

    num_images: int
    classes: tuple[str, ...]
    objects: dict[str, int]  # number by class
    widths: np.ndarray  # [G] relative
    heights: np.ndarray  # [G] relative
    smallest_class: str  # class with the smallest median side, among classes with at least MIN_OBJECTS objects
    smallest_side: float  # this median, relative
    thinnest: float  # shorter side of a box that 99 % of the objects exceed, pixels of the original image
    overlap: float  # IoU with another object of the class that 1 % of the objects exceed
    most_objects: int  # in one image
    short_side: float  # median of the images, pixels
    megapixels: float  # median of the images, millions of pixels
    elongation: float  # longer / shorter side of the image that only 5 % exceed, at most LONGEST


def take_fingerprint(annotations: Sequence[Annotation], classes: Sequence[str]) -> Fingerprint:
    """Return the fingerprint of a training split. Raises ValueError if the split has no object."""
    shorter = np.array([min(item.width, item.height) for item in annotations], dtype=float)
    longer = np.array([max(item.width, item.height) for item in annotations], dtype=float)
    boxes = [item.boxes / side for item, side in zip(annotations, np.maximum(shorter, longer / LONGEST), strict=True)]
    joined = torch.cat(boxes).numpy() if boxes else np.zeros((0, 4))
    labels = torch.cat([item.labels for item in annotations]).numpy() if boxes else np.zeros(0, dtype=int)
    if len(joined) == 0:
        raise ValueError(f"no object in the {len(annotations)} training images: add annotations with objects")
    widths, heights = joined[:, 2] - joined[:, 0], joined[:, 3] - joined[:, 1]
    sides = np.sqrt(widths * heights)
    counts = Counter(labels.tolist())
    medians = {
        label: float(np.median(sides[labels == label]))
        for label in counts
        if counts[label] >= min(MIN_OBJECTS, len(sides))
    } or {label: float(np.median(sides[labels == label])) for label in counts}
    smallest = min(medians, key=lambda label: medians[label])
    return Fingerprint(
        num_images=len(annotations),
        classes=tuple(classes),
        objects={name: counts[number] for number, name in enumerate(classes, 1)},
        widths=widths,
        heights=heights,
        smallest_class=classes[int(smallest) - 1],
        smallest_side=medians[smallest],
        thinnest=float(np.quantile(torch.cat([_thinner_sides(item) for item in annotations]).numpy(), 0.01)),
        overlap=float(np.quantile(np.concatenate([_overlaps(item) for item in annotations]), 0.99)),
        most_objects=max(len(item.labels) for item in annotations),
        short_side=float(np.median(shorter)),
        megapixels=float(np.median(shorter * longer)) / 1e6,
        elongation=min(LONGEST, float(np.quantile(longer / shorter, 0.95))),
    )


def _thinner_sides(annotation: Annotation) -> torch.Tensor:
    """Return [G]: width or height of each box, whichever is smaller, in pixels."""
    return (annotation.boxes[:, 2:] - annotation.boxes[:, :2]).amin(dim=1)


def _overlaps(annotation: Annotation) -> np.ndarray:
    """Return [G]: the largest IoU of each object with another of its class in the image; 0 without another."""
    boxes, labels = annotation.boxes, annotation.labels
    if len(boxes) == 0:
        return np.zeros(0)
    others = labels[:, None] == labels[None, :]
    others.fill_diagonal_(False)
    largest: np.ndarray = torch.where(others, box_ops.iou(boxes, boxes), 0.0).amax(dim=1).numpy()
    return largest
