"""The part that classifies and refines each RoI."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from detector.configs.errors import require
from detector.configs.missing import MISSING


class Pooling(Enum):
    roi_pool = "roi_pool"
    roi_align = "roi_align"


class PSPooling(Enum):
    mean = "mean"  # as published
    max = "max"
    align = "align"


@dataclass
class HeadConfig:
    kind: str = MISSING
    class_agnostic: bool = False  # one box regressor for all classes


@dataclass
class FastRCNNConfig(HeadConfig):
    kind: str = "fast_rcnn"
    pooling: Pooling = Pooling.roi_pool  # RoI pooling as published, or RoIAlign
    aligned: bool = True  # roi_align shifts by half a cell; false: it does not, as in torchvision's models
    output_size: int = 7  # bins along each side: 7 gives 7 x 7
    channels: int | None = None  # a 1x1 convolution to so many before pooling (backbone.tail=fc); None: none

    def __post_init__(self) -> None:
        require(self.channels is None or self.channels >= 1, f"head.channels is {self.channels}; expected at least 1")


@dataclass
class RFCNConfig(HeadConfig):
    kind: str = "rfcn"
    k: int = 7  # bins along each side: k x k score maps for each class
    channels: int = 1024  # channels after the 1x1 convolution that reduces the map
    pooling: PSPooling = PSPooling.mean  # how a bin reads its score map
    class_agnostic: bool = True

    def __post_init__(self) -> None:
        require(self.k >= 1, f"head.k is {self.k}; expected at least 1")
