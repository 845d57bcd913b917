"""Interface of a proposal module, and the module for proposals that come with the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from detector.ops import boxes as box_ops
from detector.preprocess import Inputs
from detector.structures import Mean, Proposals


class ProposalOutput(NamedTuple):
    """Proposals of each image in the input's pixels, and the losses of the proposal module."""

    proposals: list[Proposals]
    losses: dict[str, Mean]


class ProposalModule(Protocol):
    """Interface of a proposal module: it reads the maps [N, C, H_i, W_i] for proposals and the inputs."""

    reads_features: bool  # if False, `features` may be empty

    def __call__(self, features: Sequence[Tensor], inputs: Inputs) -> ProposalOutput:
        """Return the proposals of each image, and in training the losses."""
        ...


class GivenProposals(nn.Module):
    """Proposal module that returns the proposals of the batch, clipped to the image."""

    reads_features = False

    def forward(self, features: Sequence[Tensor], inputs: Inputs) -> ProposalOutput:
        """Return the proposals without losses. Raises ValueError if the batch has no proposals."""
        if inputs.proposals is None:
            raise ValueError(
                "expected proposals with every image, got none; this detector has no proposal network: "
                "pass proposals in Batch.proposals or build the detector with proposals=rpn"
            )
        clipped = [
            Proposals(box_ops.clip(item.boxes, frame.height, frame.width), item.scores)
            for item, frame in zip(inputs.proposals, inputs.frames, strict=True)
        ]
        return ProposalOutput(clipped, {})
