"""Test-time augmentation: detect in several views of an image, flipped and rescaled, and join the results by NMS."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from detector.ops import boxes as box_ops
from detector.structures import Batch, Detections, Proposals


@dataclass(frozen=True, slots=True)
class Views:
    """The views of each image at test time."""

    scales: tuple[float, ...]  # factors of the resized image, also of the limit of its longer side
    flip: bool  # each scale also mirrored left to right

    def detect(
        self,
        batch: Batch,
        candidates: Callable[[Batch, float], list[Detections]],
        suppress: Callable[[Detections], Detections],
    ) -> list[Detections]:
        """Return the detections of each image, best first, in the pixels of the original images.

        `candidates` gives detections before NMS for a scale, in the pixels of the images of its batch. `suppress` is
        the NMS.
        """
        found: list[list[Detections]] = [[] for _ in batch.images]
        for scale, view, is_mirrored in self._views(batch):
            for items, image, item in zip(found, view.images, candidates(view, scale), strict=True):
                boxes = box_ops.flip(item.boxes, image.shape[2]) if is_mirrored else item.boxes
                items.append(replace(item, boxes=boxes))
        return [suppress(join(items)) for items in found]

    def _views(self, batch: Batch) -> Iterator[tuple[float, Batch, bool]]:
        for scale in self.scales:
            yield scale, batch, False
            if self.flip:
                yield scale, mirrored(batch), True


def mirrored(batch: Batch) -> Batch:
    """Return the images mirrored left to right, with their proposals. Ground truth stays as it is."""
    proposals = batch.proposals
    if proposals is not None:
        proposals = [
            Proposals(box_ops.flip(item.boxes, image.shape[2]), item.scores)
            for item, image in zip(proposals, batch.images, strict=True)
        ]
    return replace(batch, images=[image.flip(2) for image in batch.images], proposals=proposals)


def join(parts: Sequence[Detections]) -> Detections:
    """Return the detections of all parts, one part after the other."""
    return Detections(
        torch.cat([part.boxes for part in parts]),
        torch.cat([part.scores for part in parts]),
        torch.cat([part.labels for part in parts]),
    )
