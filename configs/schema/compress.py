"""Settings of `detector compress`."""

from __future__ import annotations

from dataclasses import dataclass

from detector.configs.paths import path_setting


@dataclass
class CompressConfig:
    """The compressed model. `compress` takes these keys without prefix: ranks=[1024,256] output=small.safetensors."""

    ranks: list[int] | None = None  # ranks of the tail's fully connected layers; 0: not compressed
    max_drop: float | None = None  # or: find the smallest ranks that lose at most this mAP (0 to 1) on the test split
    max_ms: float | None = None  # or: find the largest ranks that stay below this time for 2,000 RoIs, on this machine
    evaluate: bool = False  # measure mAP before and after, also with given ranks
    output: str | None = path_setting(None)  # path of the model to write
