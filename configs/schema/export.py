"""What `detector export` writes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from detector.configs.errors import require
from detector.configs.paths import path_setting


class ExportFormat(Enum):
    portable = "portable"  # one safetensors file that every command takes as weights=
    program = "program"  # torch.export's .pt2
    onnx = "onnx"


@dataclass
class ExportConfig:
    """What `export` writes; on its command line these keys stand alone: format=portable output=model.safetensors."""

    format: ExportFormat = ExportFormat.portable  # what is written
    output: str | None = path_setting(None)  # path of the file to write
    average: bool | None = None  # the moving averages of trainer.ema_decay; None: where the checkpoint has them
    nms: bool = True  # program, onnx: score threshold and NMS inside; false: boxes and scores of every RoI
    standard: bool = False  # program: with PyTorch's operators alone, none of this project's

    def __post_init__(self) -> None:
        require(
            not (self.standard and self.nms),
            "export.standard=true: PyTorch has no NMS per class among its own operators; set export.nms=false too",
        )
