"""Proposals of a dataset with unreadable pictures, which have no proposals."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detector.datasets.augment import ProposalSource


class PartialProposals:
    """Boxes for the images `indices` of a dataset. Image indices[i] has the boxes of image i of `source`."""

    def __init__(self, source: ProposalSource, indices: Sequence[int]) -> None:
        self.source = source
        self.place_of = {index: place for place, index in enumerate(indices)}

    def boxes(self, index: int) -> Tensor:
        """Return the boxes [P, 4] float32 xyxy; [0, 4] for an image without proposals."""
        place = self.place_of.get(index)
        return torch.zeros(0, 4) if place is None else self.source.boxes(place)
