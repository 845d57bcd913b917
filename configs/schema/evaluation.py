"""How detections are scored."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from detector.configs.errors import require


class COCODifficult(Enum):
    crowd = "crowd"  # ignored, as VOC ignores them
    object = "object"


@dataclass
class EvaluationConfig:
    """What `eval`, `analyze` and `compare` make of detections; no model is run again for it."""

    protocols: list[str] = field(
        default_factory=lambda: ["voc07_11point", "voc07_11point_exact", "voc07_11point_devkit", "voc_area"]
    )  # protocols to score by; also voc_area_devkit, and coco for COCO's twelve numbers
    protocol: str = "voc_area"  # of `analyze` and `compare`
    iou_threshold: float = 0.5  # of the VOC protocols
    coco_difficult: COCODifficult = COCODifficult.crowd  # what COCO's metric makes of VOC's difficult objects
    score_threshold: float = 0.5  # from which on a detection counts as said: confusion matrix, worst images
    pictures: int = 12  # worst images and most confident mistakes that `analyze` draws, of each
    tensorboard: bool = False  # `analyze` writes precision-recall curves and pictures for TensorBoard too
    resamples: int = 10000  # of the images, for the interval of `compare`

    def __post_init__(self) -> None:
        require(len(self.protocols) > 0, "evaluation.protocols is empty; name at least one")
        require(
            0 < self.iou_threshold <= 1,
            f"evaluation.iou_threshold is {self.iou_threshold}; expected above 0, at most 1",
        )
        require(self.resamples >= 1, f"evaluation.resamples is {self.resamples}; expected at least 1")
        require(self.pictures >= 0, f"evaluation.pictures is {self.pictures}; expected 0 or more")
