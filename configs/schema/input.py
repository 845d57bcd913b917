"""What happens to an image before the backbone."""

from __future__ import annotations

from dataclasses import dataclass, field

from detector.configs.errors import require


@dataclass
class InputConfig:
    short_sides: list[int] = field(default_factory=lambda: [600])  # training draws one per image
    test_short_side: int = 600  # pixels of the shorter side in testing
    max_side: int = 1000  # pixels that the longer side may have; the image is scaled down to it
    canvas_multiple: int | None = None  # sides are padded to multiples of it; None: of the stride. 128 with compile
    flip: bool = True  # half of the training images left to right
    flip_vertical: bool = False  # half of them upside down: for pictures without an up (microscopes, satellites)
    color_jitter: float = 0.0  # brightness, contrast and saturation are drawn from 1 - x to 1 + x
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])  # RGB in [0, 1], torchvision's
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])  # of the same channels
    bgr_255: bool = False  # Caffe's preprocessing: BGR in [0, 255]; set mean and std to match

    def __post_init__(self) -> None:
        require(
            0 <= self.color_jitter < 1, f"input.color_jitter is {self.color_jitter}; expected from 0 to less than 1"
        )
