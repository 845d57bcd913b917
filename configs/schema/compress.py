"""What `detector compress` makes."""

from __future__ import annotations

from dataclasses import dataclass

from detector.configs.errors import require
from detector.configs.paths import path_setting


@dataclass
class CompressConfig:
    """What `compress` makes; on its command line these keys stand alone: ranks=[1024,256] output=small.safetensors."""

    ranks: list[int] | None = None  # of the tail's fully connected layers; 0: whole. Or search them by one of
    max_drop: float | None = None  # mAP (0 to 1) that may be lost on the test split: the smallest ranks within it
    max_ms: float | None = None  # time of the tail for 2,000 RoIs here: the largest ranks within it
    evaluate: bool = False  # mAP before and after, also where no search asks for it
    output: str | None = path_setting(None)  # path of the model to write

    def __post_init__(self) -> None:
        require(
            self.ranks is None or min(self.ranks, default=0) >= 0, f"compress.ranks is {self.ranks}; expected 0 or more"
        )
