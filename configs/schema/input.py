"""What happens to an image before the backbone."""

from __future__ import annotations

from dataclasses import dataclass, field

from detector.configs.errors import require


@dataclass
class InputConfig:
    short_sides: list[int] = field(default_factory=lambda: [600])  # shorter side in training; one is drawn per image
    test_short_side: int = 600  # length of the shorter side in testing, in pixels
    max_side: int = 1000  # largest length of the longer side, in pixels; the image is scaled to fit
    canvas_multiple: int | None = None  # pad sides to multiples of it (128 with compile); None: of the stride
    antialias: bool = False  # shrink by means over pixels, not by four samples; quick for large photographs
    flip: bool = True  # flip half of the training images left to right
    flip_vertical: bool = False  # flip half of them upside down: for microscopes, satellites
    color_jitter: float = 0.0  # x: factors of brightness, contrast, saturation are drawn from 1 - x to 1 + x
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])  # mean of R, G, B, as torchvision's
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])  # standard deviation of R, G, B
    bgr_255: bool = False  # Caffe's preprocessing: BGR in [0, 255]; set mean and std to match

    def __post_init__(self) -> None:
        require(
            0 <= self.color_jitter < 1, f"input.color_jitter is {self.color_jitter}; expected from 0 to less than 1"
        )
