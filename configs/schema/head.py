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
    """Position-sensitive pooling layers of R-FCN and Light-Head R-CNN."""

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


@dataclass
class LightHeadConfig(HeadConfig):
    """The head of Light-Head R-CNN (Li et al. 2017)."""

    kind: str = "light_head"
    k: int = 7  # bins along each side of a RoI
    channels: int = 10  # values of each bin; the thin map has channels x k x k channels
    kernel: int = 15  # length of the large separable convolution's kernels, in cells; odd
    mid_channels: int = 256  # channels inside the large separable convolution; the paper's small head has 64
    fc_channels: int = 2048  # width of the fully connected layer per RoI
    pooling: PSPooling = PSPooling.align  # how a bin is computed from its thin map
    class_agnostic: bool = True

    def __post_init__(self) -> None:
        require(
            self.kernel % 2 == 1, f"head.kernel is {self.kernel}; expected an odd number, so that maps keep their size"
        )


@dataclass
class RFCNConfig(HeadConfig):
    """The R-FCN head (Dai et al. 2016)."""

    kind: str = "rfcn"
    k: int = 7  # bins along each side; each class has k x k score maps
    channels: int = 1024  # channels after the 1x1 convolution that reduces the map
    pooling: PSPooling = PSPooling.mean  # how a bin is computed from its score map
    class_agnostic: bool = True


@dataclass
class DeformableRFCNConfig(HeadConfig):
    """The head of Deformable R-FCN (Dai et al. 2017): R-FCN whose bins move by learned offsets."""

    kind: str = "deformable_rfcn"
    k: int = 7  # bins along each side; each class has k x k score maps
    channels: int = 1024  # channels after the 1x1 convolution that reduces the map
    offset_scale: float = 0.1  # an offset of 1 moves a bin by this fraction of the RoI's size
    sampling_ratio: int = 4  # samples per bin and axis
    class_agnostic: bool = True
