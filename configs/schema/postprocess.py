"""From scores and boxes to detections."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class PostprocessConfig:
    """py-faster-rcnn's protocol at test time."""

    score_threshold: float = 0.05
    nms_iou: float = 0.3
    max_per_image: int = 100
