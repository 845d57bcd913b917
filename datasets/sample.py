"""What a dataset gives: the annotation of an image, and the image with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Annotation:
    """Everything known of one image without opening it; boxes in the pixels of the original image."""

    image_id: str  # unique in its dataset, for example 000005 or 2007_000027
    width: int
    height: int
    boxes: Tensor  # [G, 4] float32 xyxy, 0-based, half-open
    labels: Tensor  # [G] int64, 1..num_classes
    difficult: Tensor  # [G] bool
    truncated: Tensor  # [G] bool
    occluded: Tensor  # [G] bool


@dataclass(frozen=True, slots=True)
class Sample:
    """One image, decoded, with its annotation and its proposals, all in the same frame."""

    image: Tensor  # [3, H, W] uint8 RGB
    annotation: Annotation
    proposals: Tensor | None  # [P, 4] float32 xyxy; None where a network proposes
    seed: int  # keys the random choices of a training step on this image
    short_side: int  # the training scale chosen for this view of the image


class Dataset(Protocol):
    """Images with annotations. Annotations are read once, when the dataset is built; images when asked for."""

    classes: tuple[str, ...]  # the name of label i + 1
    annotations: Sequence[Annotation]

    def image(self, index: int) -> Tensor:
        """The decoded image [3, H, W] uint8 RGB. Raises ValueError naming the file if it cannot be read."""
        ...
