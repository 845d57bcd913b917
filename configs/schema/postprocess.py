"""From scores and boxes to detections."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class PostprocessConfig:
    """Post-processing of detections; the defaults are py-faster-rcnn's test protocol."""

    score_threshold: float = 0.05  # boxes with a lower score are dropped before NMS
    nms_iou: float = 0.3  # NMS drops a box if its IoU with a better box of the same class is above this
    max_per_image: int = 100  # largest number of detections per image (with predict.tile: per tile); the best are kept
    box_voting: float | None = (
        None  # IoU: a box becomes the mean of the boxes that overlap it this much; None: no change
    )
