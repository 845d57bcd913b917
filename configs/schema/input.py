"""The preparation of images before the backbone."""

from __future__ import annotations

from dataclasses import dataclass, field

from detector.configs.errors import require


@dataclass
class InputConfig:
    """Resizing, augmentation and normalization."""

    short_sides: list[int] = field(default_factory=lambda: [600])  # pixels of the shorter side in training, at random
    test_short_side: int = 600  # pixels of the shorter side in testing
    test_flip: bool = False  # detect in the mirrored image too, and join the results; twice the time
    test_scales: list[float] = field(default_factory=lambda: [1.0])  # detect at these multiples of the test size
    max_side: int = 1000  # limit of the longer side in pixels, times test_scales; larger images are scaled down
    canvas_multiple: int | None = None  # pad sides to multiples of this (128 with compile); None: of the stride
    round_down: bool = False  # sides of resized images are rounded down, as in torchvision; else to the nearest pixel
    antialias: bool = False  # shrink by averaging pixels, not by sampling four; fast for large photographs
    flip: bool = True  # flip half of the training images left to right
    flip_vertical: bool = False  # flip half of the training images upside down: for microscopes, satellites
    color_jitter: float = 0.0  # x: draw factors for brightness, contrast and saturation from 1 - x to 1 + x
    crop: float = 1.0  # x: cut out a random part with sides of x to 1 times the image's; 1: off
    mosaic: float = 0.0  # join this share of the training images with three others to one; needs proposals=rpn
    scale_jitter: list[float] = field(default_factory=lambda: [1.0, 1.0])  # range of a factor for the training size
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])  # mean of R, G, B, as in torchvision
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])  # standard deviation of R, G, B
    bgr_255: bool = False  # Caffe's preprocessing: BGR in [0, 255]; set mean and std to match

    def __post_init__(self) -> None:
        require(
            len(self.scale_jitter) != 2 or self.scale_jitter[0] <= self.scale_jitter[1],
            f"input.scale_jitter is {self.scale_jitter}; expected the smallest factor before the largest",
        )
