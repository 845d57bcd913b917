"""From scores and boxes to detections."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class PostprocessConfig:
    """py-faster-rcnn's protocol at test time."""

    score_threshold: float = 0.05  # lower scores are dropped before NMS
    nms_iou: float = 0.3  # NMS removes a box above this IoU with a better one of its class
    max_per_image: int = 100  # the best so many of an image are kept
