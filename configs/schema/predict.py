"""What `detector predict` keeps and writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from detector.configs.errors import require


class ResultFormat(Enum):
    json = "json"
    csv = "csv"
    voc = "voc"  # comp4 text files
    coco = "coco"  # COCO's result JSON


@dataclass
class PredictConfig:
    """What `predict` keeps and writes; on its command line these keys stand alone: crops=true classes=[cat,dog]."""

    results: list[ResultFormat] = field(default_factory=lambda: [ResultFormat.json])  # files to write
    classes: list[str] | None = None  # keep these alone
    score_threshold: float = (
        0.0  # keep detections from this score on, of those that postprocess.score_threshold lets by
    )
    draw_threshold: float = 0.5  # draw and cut out those from this score on
    draw: bool = True  # the pictures, or the video, with boxes
    crops: bool = False  # each box as a picture of its own
    batch_size: int = 1  # pictures of one batch share a canvas, whose padding changes scores a little
    max_frames: int | None = None  # of a video or a camera

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, f"predict.batch_size is {self.batch_size}; expected at least 1")
        require(
            self.max_frames is None or self.max_frames >= 1,
            f"predict.max_frames is {self.max_frames}; expected at least 1",
        )
