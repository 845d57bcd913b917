"""A backbone with a feature pyramid: its maps are the levels of the pyramid (Feature Pyramid Networks, 3 and 4).

    images --classifier--> maps of strides 4, 8, 16, 32 --FPN--> P2, P3, P4, P5   read by the head
                                                                 P2, ..., P5, P6  read by a proposal network

Every classifier that implements `BottomUp` can be used. If it ends at stride 16, P5 is made like P6 in the paper: every
second cell of the previous level.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from detector.backbones import BottomUp
from detector.backbones.top_down import FPN
from detector.structures import FeatureMaps

COARSEST, COARSEST_OF_HEAD = 64, 32  # strides of P6 and P5


class Pyramid(nn.Module):
    """A classifier with a feature pyramid over it."""

    def __init__(self, *, body: BottomUp, channels: int, tail: nn.Module | None, tail_channels: int) -> None:
        """`body` is the classifier, `channels` the width of every level, `tail` the layers that run on each pooled RoI.

        Raises ValueError for a body whose strides do not double from map to map.
        """
        super().__init__()
        strides = [*body.bottom_up_strides]
        if any(coarse != 2 * fine for fine, coarse in pairwise(strides)) or strides[-1] > COARSEST_OF_HEAD:
            raise ValueError(
                f"a pyramid needs maps whose strides double, up to {COARSEST_OF_HEAD}; got strides of "
                f"{', '.join(map(str, strides))}; change backbone.node and backbone.deeper_nodes"
            )
        while strides[-1] < COARSEST:
            strides.append(2 * strides[-1])
        self.proposal_strides = tuple(strides)
        self.strides = tuple(stride for stride in strides if stride <= COARSEST_OF_HEAD)
        self.proposal_channels = self.head_channels = channels
        self.body = body
        self.fpn = FPN(body.bottom_up_channels, channels, len(strides))
        self.tail = tail
        self.tail_channels = tail_channels

    def forward(self, images: Tensor) -> FeatureMaps:
        """Return the levels for images [N, 3, H, W]: [N, channels, H/4, W/4] and so on."""
        levels = self.fpn(self.body.bottom_up(images))
        return FeatureMaps(levels, levels[: len(self.strides)])

    def rename(self, key: str) -> str | None:
        """Return the name here of a key of the classifier's state dict; None if this network has no such tensor."""
        name = self.body.rename(key)
        return None if name is None else f"body.{name}"

    @property
    def checkpointing(self) -> bool:
        """Whether the classifier uses gradient checkpointing, if it supports it."""
        return self.body.checkpointing  # type: ignore[attr-defined, no-any-return]

    @checkpointing.setter
    def checkpointing(self, value: bool) -> None:
        self.body.checkpointing = value  # type: ignore[attr-defined]
