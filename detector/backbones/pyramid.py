"""A backbone whose maps are the levels of a feature pyramid (Feature Pyramid Networks, 3 and 4).

    images --classifier--> maps of strides 4, 8, 16, 32 --FPN--> P2, P3, P4, P5   read by the head
                                                                 P2, ..., P5, P6  read by a proposal network

Any classifier with a bottom-up pathway will do (`BottomUp`). One that ends at stride 16 gets a P5 like the paper's P6,
each second cell of the level before.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from detector.backbones import BottomUp
from detector.backbones.top_down import FPN
from detector.structures import FeatureMaps

COARSEST, COARSEST_OF_HEAD = 64, 32  # strides of P6 and P5


class Pyramid(nn.Module):
    def __init__(self, *, body: BottomUp, channels: int, tail: nn.Module | None, tail_channels: int) -> None:
        """`body` is the classifier, `channels` those of every level, `tail` what runs on each pooled RoI.

        Raises ValueError for a body whose strides do not double from map to map.
        """
        super().__init__()
        strides = [*body.bottom_up_strides]
        if any(coarse != 2 * fine for fine, coarse in pairwise(strides)) or strides[-1] > COARSEST_OF_HEAD:
            raise ValueError(
                f"expected maps whose strides double, up to {COARSEST_OF_HEAD}, to make a pyramid of; got strides of "
                f"{', '.join(map(str, strides))}"
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
        """The levels for images [N, 3, H, W]: [N, channels, H/4, W/4] and so on."""
        levels = self.fpn(self.body.bottom_up(images))
        return FeatureMaps(levels, levels[: len(self.strides)])

    def rename(self, key: str) -> str | None:
        """Where a key of the classifier's state dict goes; None for what this network has no place for."""
        place = self.body.rename(key)
        return None if place is None else f"body.{place}"

    @property
    def checkpointing(self) -> bool:
        """Gradient checkpointing of the classifier, where it has it."""
        return self.body.checkpointing  # type: ignore[attr-defined, no-any-return]

    @checkpointing.setter
    def checkpointing(self, value: bool) -> None:
        self.body.checkpointing = value  # type: ignore[attr-defined]
