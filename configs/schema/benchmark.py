"""Settings of `detector benchmark`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Backend(Enum):
    """Ways to run a model other than plain PyTorch."""

    folded = "folded"  # frozen batch norms folded into the convolutions
    compiled = "compiled"  # torch.compile
    program = "program"  # torch.export
    onnx = "onnx"  # ONNX Runtime
    bf16 = "bf16"
    svd = "svd"  # fully connected layers of a Fast R-CNN tail, compressed by SVD
    int8 = "int8"  # the same layers in int8


@dataclass
class BenchmarkConfig:
    """The timed runs: `benchmark` times one image of noise many times."""

    height: int = 375  # pixels of the timed image
    width: int = 500  # pixels of the timed image
    batch_size: int = 1  # images of one call
    num_proposals: int = 2000  # proposals of each image; an RPN computes its own
    num_classes: int = 20  # classes of a model without a checkpoint
    warmup: int = 3  # calls before the timed calls
    repeats: int = 20  # timed calls; the result is their median
    backends: list[Backend] = field(default_factory=lambda: list(Backend))  # timed besides plain PyTorch; []: none
