"""Settings of `detector predict`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class ResultFormat(Enum):
    """Files of detections."""

    json = "json"
    csv = "csv"
    voc = "voc"  # comp4 text files
    coco = "coco"  # COCO's result JSON


@dataclass
class PredictConfig:
    """The output of `predict`. It takes these keys without prefix: crops=true classes=[cat,dog]."""

    results: list[ResultFormat] = field(default_factory=lambda: [ResultFormat.json])  # files to write
    classes: list[str] | None = None  # classes to keep; None: all
    score_threshold: float = 0.0  # lowest score to keep; postprocess.score_threshold applies first
    draw_threshold: float = 0.5  # lowest score to draw and to crop
    draw: bool = True  # write the pictures, or the video, with boxes
    crops: bool = False  # write the inside of each box as a picture
    batch_size: int = 1  # pictures, or tiles of a picture, per batch; padding in a batch changes scores a little
    tile: int | None = None  # side in pixels of tiles for large pictures, such as aerial photographs; None: no tiles
    tile_overlap: float = 0.25  # share of its side that a tile has in common with the next; objects should fit into it
    max_frames: int | None = None  # number of frames to read from a video or camera; None: all
