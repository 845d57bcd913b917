"""The source of the RoIs."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from detector.configs.errors import require
from detector.configs.missing import MISSING
from detector.configs.paths import path_setting
from detector.configs.schema.loss import BoxLoss


@dataclass
class ProposalConfig:
    """Settings of every source of proposals."""

    kind: str = MISSING
    top_k_train: int = 2000  # largest number of proposals per image in training; the best are kept
    top_k_test: int = 2000  # largest number of proposals per image in testing; the best are kept
    min_size: float = 2.0  # drop proposals with a side below this, in pixels of the original image


@dataclass
class GridProposalsConfig(ProposalConfig):
    """A dense grid of boxes. It needs no file and does not use ground truth."""

    kind: str = "grid"
    scales: list[float] = field(default_factory=lambda: [0.1, 0.15, 0.22, 0.32, 0.47, 0.7])  # x sqrt(image area)
    aspects: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])  # height / width
    overlap: float = 0.6  # overlap of neighbouring boxes, as a fraction of their side: step = (1 - overlap) x side
    top_k_train: int = 20000
    top_k_test: int = 20000


@dataclass
class FileProposalsConfig(ProposalConfig):
    """Boxes from files: .npz of this project, or the original .mat in the order of the image list."""

    kind: str = "file"
    train: str = path_setting()  # file for the training split
    test: str = path_setting()  # file for the test split
    convention: str = "yxyx-1"  # box format of a .mat: yxyx-1 (fast-rcnn), xyxy-1 (R-FCN), xyxy-0 (fast-rcnn's demo)


@dataclass
class SelectiveSearchConfig(ProposalConfig):
    """OpenCV's Selective Search, computed once and stored on disk."""

    kind: str = "selective_search"
    mode: str = "fast"  # fast | quality
    cache: str = path_setting("data/proposals")  # folder for the computed boxes
    resize_height: int | None = None  # scale images to this height before the search; None: no scaling
    workers: int | None = None  # number of processes; None: one per core

    def __post_init__(self) -> None:
        require(self.mode in ("fast", "quality"), f"proposals.mode is {self.mode!r}; expected fast or quality")


class Anchors(Enum):
    """The anchors of a cell, and which boxes enter NMS."""

    cell = "cell"  # centred on the cell; sides are rounded before scaling (py-faster-rcnn)
    # torchvision: centred on the cell's upper left corner, half sides rounded, a cell = canvas / number of cells; boxes
    # that are too small, such as those in the padding, take places among the pre_nms_test best.
    corner = "corner"


@dataclass
class RPNConfig(ProposalConfig):
    """Learned proposals (Faster R-CNN, section 3)."""

    kind: str = "rpn"
    channels: int = 512  # channels of the 3x3 convolution
    separable: bool = False  # the 3x3 convolution is depthwise, then 1x1: an eighth of the arithmetic
    scales: list[float] = field(default_factory=lambda: [8.0, 16.0, 32.0])  # anchor side = scale x stride
    aspects: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])  # height / width of anchors
    anchors: Anchors = Anchors.cell  # cell: as py-faster-rcnn; corner: as torchvision
    pre_nms_train: int = 12000  # number of best anchors of each map that enter NMS in training
    pre_nms_test: int = 6000  # number of best anchors of each map that enter NMS in testing
    top_k_train: int = 2000
    top_k_test: int = 300
    nms_iou: float = 0.7  # NMS drops a proposal if its IoU with a better proposal is above this
    min_size: float = 16.0  # drop proposals with a side below this x the image's scale, in pixels of the input
    positive_iou: float = 0.7  # an anchor with at least this IoU is an object
    negative_iou: float = 0.3  # an anchor below this IoU is background; anchors between the two are ignored
    anchors_per_image: int = 256  # number of anchors of each image in the loss
    positive_fraction: float = 0.5  # largest fraction of objects among these anchors
    box_loss: BoxLoss = BoxLoss.smooth_l1  # the loss of a predicted box; its weight is 1 for every kind
    sigma: float = 3.0  # smooth L1 is linear beyond 1 / sigma^2
