"""The scoring of detections."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from detector.configs.errors import require


class COCODifficult(Enum):
    """The meaning of VOC's difficult objects in COCO's metric."""

    crowd = "crowd"  # crowd regions, which the metric ignores, as VOC ignores difficult objects
    object = "object"  # ordinary objects


@dataclass
class EvaluationConfig:
    """The scoring in `eval`, `analyze` and `compare`. Other values here need no new run of the model."""

    protocols: list[str] = field(
        default_factory=lambda: ["voc07_11point", "voc07_11point_exact", "voc07_11point_devkit", "voc_area"]
    )  # protocols for `eval`; also voc_area_devkit, and coco for COCO's twelve numbers
    protocol: str = "voc_area"  # protocol for `analyze` and `compare`
    iou_threshold: float = 0.5  # lowest IoU of a correct detection, in the VOC protocols
    coco_difficult: COCODifficult = COCODifficult.crowd  # meaning of VOC's difficult objects in COCO's metric
    score_threshold: float = 0.5  # lowest score in the confusion matrix and in the worst images
    pictures: int = 12  # number of worst images that `analyze` draws, and of confident mistakes
    tensorboard: bool = False  # `analyze` also writes precision-recall curves and pictures for TensorBoard
    resamples: int = 10000  # bootstrap samples of the images, for the interval of `compare`

    def __post_init__(self) -> None:
        require(len(self.protocols) > 0, "evaluation.protocols is empty; name at least one")
