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
    top_k_train: int = 2000
    top_k_test: int = 2000
    min_size: float = 2.0  # drop proposals with a side under this many pixels of the original image


@dataclass
class GridProposalsConfig(ProposalConfig):
    """A dense grid of boxes: needs no file and sees no ground truth."""

    kind: str = "grid"
    scales: list[float] = field(default_factory=lambda: [0.1, 0.15, 0.22, 0.32, 0.47, 0.7])  # of sqrt(width x height)
    aspects: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])  # height / width
    overlap: float = 0.6  # of neighbours along an axis: step = (1 - overlap) x side
    top_k_train: int = 20000
    top_k_test: int = 20000


@dataclass
class FileProposalsConfig(ProposalConfig):
    """Boxes kept in files: this project's .npz, or the original .mat in image-list order."""

    kind: str = "file"
    train: str = path_setting()
    test: str = path_setting()
    convention: str = (
        "yxyx-1"  # of a .mat: yxyx-1 (fast-rcnn's splits), xyxy-1 (IJCV, R-FCN), xyxy-0 (fast-rcnn's demo)
    )


@dataclass
class SelectiveSearchConfig(ProposalConfig):
    """Selective Search by OpenCV, computed once and kept beside the dataset."""

    kind: str = "selective_search"
    mode: str = "fast"  # fast | quality
    cache: str = path_setting("data/proposals")
    resize_height: int | None = None  # compute on images of this height; None: as they are
    workers: int | None = None  # None: one per core

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
    channels: int = 512
    scales: list[float] = field(default_factory=lambda: [8.0, 16.0, 32.0])
    aspects: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])
    anchors: Anchors = Anchors.cell
    pre_nms_train: int = 12000  # of each map
    pre_nms_test: int = 6000
    top_k_train: int = 2000
    top_k_test: int = 300
    nms_iou: float = 0.7
    min_size: float = 16.0  # times the image's scale
    positive_iou: float = 0.7
    negative_iou: float = 0.3
    anchors_per_image: int = 256
    positive_fraction: float = 0.5
    sigma: float = 3.0
