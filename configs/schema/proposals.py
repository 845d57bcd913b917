"""Where the RoIs come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from detector.configs.errors import require
from detector.configs.missing import MISSING
from detector.configs.paths import path_setting


@dataclass
class ProposalConfig:
    kind: str = MISSING
    top_k_train: int = 2000  # proposals of an image that training keeps, best first
    top_k_test: int = 2000  # proposals of an image that testing keeps, best first
    min_size: float = 2.0  # drop proposals with a side under this many pixels of the original image


@dataclass
class GridProposalsConfig(ProposalConfig):
    """A dense grid of boxes: needs no file and sees no ground truth."""

    kind: str = "grid"
    scales: list[float] = field(default_factory=lambda: [0.1, 0.15, 0.22, 0.32, 0.47, 0.7])  # of sqrt(width x height)
    aspects: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])  # height / width
    overlap: float = 0.6  # share of its side by which a box overlaps the next: step = (1 - overlap) x side
    top_k_train: int = 20000
    top_k_test: int = 20000


@dataclass
class FileProposalsConfig(ProposalConfig):
    """Boxes kept in files: this project's .npz, or the original .mat in image-list order."""

    kind: str = "file"
    train: str = path_setting()  # file of the training split
    test: str = path_setting()  # file of the test split
    convention: str = "yxyx-1"  # boxes of a .mat: yxyx-1 (fast-rcnn), xyxy-1 (R-FCN), xyxy-0 (fast-rcnn's demo)


@dataclass
class SelectiveSearchConfig(ProposalConfig):
    """Selective Search by OpenCV, computed once and kept beside the dataset."""

    kind: str = "selective_search"
    mode: str = "fast"  # fast | quality
    cache: str = path_setting("data/proposals")  # folder where computed boxes are kept
    resize_height: int | None = None  # images are scaled to this height first; None: they are not scaled
    workers: int | None = None  # processes that compute; None: one per core

    def __post_init__(self) -> None:
        require(self.mode in ("fast", "quality"), f"proposals.mode is {self.mode!r}; expected fast or quality")


class Anchors(Enum):
    """Where the anchors of a cell are centred, and what of them is rounded."""

    cell = "cell"  # on the cell; its sides before they are scaled (py-faster-rcnn)
    corner = "corner"  # on the cell's upper left corner; half of each side (torchvision)


@dataclass
class RPNConfig(ProposalConfig):
    """Learned proposals (Faster R-CNN, section 3)."""

    kind: str = "rpn"
    channels: int = 512  # channels of the 3x3 convolution
    separable: bool = False  # the 3x3 convolution is depthwise and 1x1: an eighth of the work
    scales: list[float] = field(default_factory=lambda: [8.0, 16.0, 32.0])  # anchor sides are scale x stride
    aspects: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])  # height / width of anchors
    anchors: Anchors = Anchors.cell  # where a cell's anchors are centred
    pre_nms_train: int = 12000  # best anchors of each map that NMS reads, in training
    pre_nms_test: int = 6000  # the same in testing
    top_k_train: int = 2000
    top_k_test: int = 300
    nms_iou: float = 0.7  # NMS removes a proposal above this IoU with a better one
    min_size: float = 16.0  # drop proposals with a side below this, times the image's scale
    positive_iou: float = 0.7  # an anchor with this IoU or more is an object
    negative_iou: float = 0.3  # an anchor below this IoU is background; between the two it is ignored
    anchors_per_image: int = 256  # anchors of each image in the loss
    positive_fraction: float = 0.5  # at most this share of these anchors are objects
    sigma: float = 3.0  # smooth L1 turns linear at 1 / sigma^2
