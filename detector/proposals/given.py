"""Proposals that came with the batch, clipped to the image; and what any source of proposals gives the detector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from detector.ops import boxes as box_ops
from detector.preprocess import Inputs
from detector.structures import Mean, Proposals


class ProposalOutput(NamedTuple):
    """Proposals of each image in the input's pixels, and the losses of whatever proposed them."""

    proposals: list[Proposals]
    losses: dict[str, Mean]


class ProposalModule(Protocol):
    """What the detector asks of a source of proposals: given the maps [N, C, H_i, W_i] for proposals and the inputs."""

    reads_features: bool  # otherwise no maps will do

    def __call__(self, features: Sequence[Tensor], inputs: Inputs) -> ProposalOutput: ...


class GivenProposals(nn.Module):
    """Passes on what the dataset brought."""

    reads_features = False

    def forward(self, features: Sequence[Tensor], inputs: Inputs) -> ProposalOutput:
        """Raises ValueError where the batch has none."""
        if inputs.proposals is None:
            raise ValueError(
                "expected proposals with every image, got none; this detector was built for given proposals: "
                "pass them in Batch.proposals or build it with proposals=rpn"
            )
        clipped = [
            Proposals(box_ops.clip(item.boxes, frame.height, frame.width), item.scores)
            for item, frame in zip(inputs.proposals, inputs.frames, strict=True)
        ]
        return ProposalOutput(clipped, {})
