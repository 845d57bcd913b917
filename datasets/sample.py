"""The data types of a dataset: the annotation of an image, and a sample with its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Annotation:
    """All data of one image except its pixels. Boxes are in pixels of the original image."""

    image_id: str  # unique in its dataset, for example 000005 or 2007_000027
    width: int
    height: int
    boxes: Tensor  # [G, 4] float32 xyxy, 0-based, half-open
    labels: Tensor  # [G] int64, 1..num_classes
    difficult: Tensor  # [G] bool
    truncated: Tensor  # [G] bool
    occluded: Tensor  # [G] bool

    def select(self, keep: Tensor) -> Annotation:
        """Return the annotation with the objects `keep`: a mask [G] or indices."""
        return replace(
            self,
            boxes=self.boxes[keep],
            labels=self.labels[keep],
            difficult=self.difficult[keep],
            truncated=self.truncated[keep],
            occluded=self.occluded[keep],
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """One decoded image with its annotation and its proposals, all in the same coordinates."""

    image: Tensor  # [3, H, W] uint8 RGB
    annotation: Annotation
    proposals: Tensor | None  # [P, 4] float32 xyxy; None with an RPN
    seed: int  # seed of the random choices of a training step on this image
    short_side: int  # length that the shorter side is scaled to, in pixels


class Dataset(Protocol):
    """Images with annotations. Annotations are read when the dataset is built, images only when needed."""

    classes: tuple[str, ...]  # classes[i] is the name of label i + 1
    annotations: Sequence[Annotation]

    def image(self, index: int) -> Tensor:
        """Return the decoded image [3, H, W] uint8 RGB. Raises ValueError naming the file if it cannot be read."""
        ...
