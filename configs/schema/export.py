"""Settings of `detector export`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from detector.configs.errors import require
from detector.configs.paths import path_setting


class ExportFormat(Enum):
    """Forms of an exported model."""

    portable = "portable"  # one safetensors file that every command accepts as weights=FILE
    program = "program"  # torch.export's .pt2
    onnx = "onnx"


@dataclass
class ExportConfig:
    """The exported file. `export` takes these keys without prefix: format=portable output=model.safetensors."""

    format: ExportFormat = ExportFormat.portable  # format of the file
    output: str | None = path_setting(None)  # path of the file to write
    average: bool | None = None  # write averaged weights (trainer.ema_decay); None: if the checkpoint has them
    nms: bool = True  # program, onnx: the model includes NMS; false: its outputs are boxes and scores of every RoI
    standard: bool = False  # program: use PyTorch's operators only, none of this project

    def __post_init__(self) -> None:
        require(
            not (self.standard and self.nms),
            "export.standard=true: PyTorch has no operator for NMS per class; set export.nms=false too",
        )
