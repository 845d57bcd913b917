"""The head: classifies each RoI and refines its box."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from detector.configs.errors import require
from detector.configs.missing import MISSING


class Pooling(Enum):
    """RoI pooling layers of Fast R-CNN."""

    roi_pool = "roi_pool"
    roi_align = "roi_align"


class PSPooling(Enum):
    """Position-sensitive pooling layers of R-FCN."""

    mean = "mean"  # as in the R-FCN paper
    max = "max"
    align = "align"


@dataclass
class HeadConfig:
    """Settings of every head."""

    kind: str = MISSING
    class_agnostic: bool = False  # one box regressor for all classes


@dataclass
class FastRCNNConfig(HeadConfig):
    """The Fast R-CNN head (Girshick 2015)."""

    kind: str = "fast_rcnn"
    pooling: Pooling = Pooling.roi_pool  # RoI pooling as in the paper, or RoIAlign
    aligned: bool = True  # roi_align shifts RoIs by half a cell; false: no shift, as in torchvision's models
    output_size: int = 7  # bins along each side; 7: 7 x 7 bins
    channels: int | None = None  # a 1x1 convolution before pooling has so many channels (needs tail=fc); None: none

    def __post_init__(self) -> None:
        require(self.channels is None or self.channels >= 1, f"head.channels is {self.channels}; expected at least 1")


@dataclass
class RFCNConfig(HeadConfig):
    """The R-FCN head (Dai et al. 2016)."""

    kind: str = "rfcn"
    k: int = 7  # bins along each side; each class has k x k score maps
    channels: int = 1024  # channels after the 1x1 convolution that reduces the map
    pooling: PSPooling = PSPooling.mean  # how a bin is computed from its score map
    class_agnostic: bool = True

    def __post_init__(self) -> None:
        require(self.k >= 1, f"head.k is {self.k}; expected at least 1")
