"""Proposals of a dataset some of whose pictures cannot be read: those have none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detector.datasets.augment import ProposalSource


class GappedProposals:
    """Boxes for the images `indices` of a dataset, which `source` numbers from 0."""

    def __init__(self, source: ProposalSource, indices: Sequence[int]) -> None:
        self.source = source
        self.place_of = {index: place for place, index in enumerate(indices)}

    def boxes(self, index: int) -> Tensor:
        """[P, 4] float32 xyxy; [0, 4] for an image without proposals."""
        place = self.place_of.get(index)
        return torch.zeros(0, 4) if place is None else self.source.boxes(place)
