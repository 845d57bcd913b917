"""Turns decoded images into the network's input, and maps boxes between the two.

An image is resized so that its shorter side is `short_side`, or smaller if the longer side would exceed `max_side`
(Fast R-CNN, section 5; `lib/utils/blob.py`). Images are normalised, then zero-padded at the bottom and right to one
canvas whose sides are multiples of the stride. So a feature map has ceil(side / stride) cells, as in the original.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detector.structures import Batch, Detections, Instances, Proposals

Found = TypeVar("Found", Detections, Proposals)


class Frame(NamedTuple):
    """Size and scale of one image in the network's input."""

    height: int  # of the resized image, without padding
    width: int
    scale_y: float  # resized / original; the two scales differ, since each side is rounded to whole pixels
    scale_x: float

    def scale(self) -> float:
        """Return the geometric mean of both scales."""
        return (self.scale_x * self.scale_y) ** 0.5  # type: ignore[no-any-return]


class Inputs(NamedTuple):
    """A batch in the pixels of the network's input."""

    images: Tensor  # [N, 3, H, W] normalised
    frames: list[Frame]
    instances: list[Instances]
    proposals: list[Proposals] | None
    seeds: list[int]


def resized_size(
    height: int, width: int, short_side: int, max_side: int, *, round_down: bool = False
) -> tuple[int, int]:
    """Return (height, width) with the shorter side `short_side` and the longer side at most `max_side`.

    Uses integers only and rounds a half up, so that an exported graph computes the same for any size at run time.

    With `round_down` the sides are those of torchvision's detectors: products of floats, rounded down. So 5 of 100
    pictures get a shorter side of `short_side` - 1. An exported graph divides integers: there it is `short_side`.
    Source: torchvision `models/detection/transform.py`.
    """
    shorter, longer = torch.sym_min(height, width), torch.sym_max(height, width)

    def resized(side: int) -> int:
        if round_down and torch.compiler.is_exporting():
            return torch.sym_max(1, torch.sym_min(side * short_side // shorter, side * max_side // longer))  # type: ignore[return-value]
        if round_down:
            scale = min(short_side / int(shorter), max_side / int(longer))
            return max(1, math.floor(side * scale))
        by_shorter = (2 * side * short_side + shorter) // (2 * shorter)
        by_longer = (2 * side * max_side + longer) // (2 * longer)
        return torch.sym_max(1, torch.sym_min(by_shorter, by_longer))  # type: ignore[return-value]

    return resized(height), resized(width)


class Preprocess(nn.Module):
    """Resizing, normalisation and padding. The channel statistics are buffers, so they move with the model."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        max_side: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        bgr_255: bool,
        stride: int,
        antialias: bool = False,
        round_down: bool = False,
        multiple: int | None = None,
        finest_stride: int | None = None,
    ) -> None:
        """`mean` and `std` are for RGB in [0, 1]. With `bgr_255` the input is BGR in [0, 255], as for Caffe's models.

        With `antialias` a pixel of a smaller image is the weighted mean of all pixels that it covers. Without it, it is
        made from four of them, as in the original: fine texture becomes noise, and large photographs are slow.
        `round_down` is that of `resized_size`.
        The sides of the canvas are multiples of `stride`, and also of `multiple` if given (fewer shapes, more padding).
        `finest_stride` is the stride of the finest feature map; None means `stride`.
        """
        super().__init__()
        self.max_side = max_side
        self.bgr_255 = bgr_255
        self.antialias = antialias
        self.round_down = round_down
        self.stride = stride
        self.finest_stride = stride if finest_stride is None else finest_stride
        self.multiple = stride if multiple is None else math.lcm(stride, multiple)
        unit = 1.0 if bgr_255 else 255.0
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1) * unit, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1) * unit, persistent=False)

    @property
    def longest_map_side(self) -> int:
        """The largest possible number of cells along a side of a feature map."""
        return _round_up(self.max_side, self.multiple) // self.finest_stride

    def forward(self, batch: Batch, scale: float = 1.0) -> Inputs:
        """Return images, boxes and proposals of `batch` in the pixels of one padded canvas [N, 3, H, W].

        `scale` multiplies the shorter side of each image and the limit of the longer side.
        """
        max_side = _scaled(self.max_side, scale)
        sizes = [
            resized_size(image.shape[1], image.shape[2], _scaled(side, scale), max_side, round_down=self.round_down)
            for image, side in zip(batch.images, batch.short_sides, strict=True)
        ]
        frames = [
            Frame(height, width, height / image.shape[1], width / image.shape[2])
            for (height, width), image in zip(sizes, batch.images, strict=True)
        ]
        canvas_height = _round_up(max(frame.height for frame in frames), self.multiple)
        canvas_width = _round_up(max(frame.width for frame in frames), self.multiple)
        # Channels last in memory: fastest for convolutions on CPU and GPU.
        canvas = self.mean.new_zeros(len(frames), canvas_height, canvas_width, 3).permute(0, 3, 1, 2)
        for slot, image, frame in zip(canvas, batch.images, frames, strict=True):
            slot[:, : frame.height, : frame.width] = self.normalised(image, frame)
        return Inputs(
            images=canvas,
            frames=frames,
            instances=[
                Instances(to_input(item.boxes, frame), item.labels, item.difficult)
                for item, frame in zip(batch.instances, frames, strict=True)
            ],
            proposals=None
            if batch.proposals is None
            else [
                Proposals(to_input(item.boxes, frame), item.scores)
                for item, frame in zip(batch.proposals, frames, strict=True)
            ],
            seeds=batch.seeds,
        )

    def normalised(self, image: Tensor, frame: Frame) -> Tensor:
        """Return one image [3, h, w] uint8 normalised and resized bilinearly.

        Without `antialias` it is normalised before it is resized, as in the original.
        """
        image = image.flip(0) if self.bgr_255 else image
        size = (frame.height, frame.width)
        same_size = not torch.compiler.is_exporting() and image.shape[1:] == size
        if self.antialias:
            pixels = image if same_size else resize_antialiased(image, size, fast=self.training)
            return _normalise(pixels, self.mean, self.std)
        pixels = _normalise(image, self.mean, self.std)
        if same_size:
            return pixels
        return F.interpolate(pixels[None], size, mode="bilinear", align_corners=False)[0]


def _normalise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return (pixels - mean) / std [3, H, W]; `mean` and `std` [3, 1, 1] are those of the channels.

    With the channels last in memory, a CPU computes whole rows of all channels in a quarter of the time. The values are
    the same.
    """
    if torch.compiler.is_compiling() or pixels.device.type != "cpu" or pixels.stride(0) != 1:
        return (pixels.to(mean.dtype) - mean) / std
    channels, height, width = pixels.shape
    rows = pixels.permute(1, 2, 0).reshape(height, width * channels).to(mean.dtype)
    rows = (rows - mean.flatten().repeat(width)).div_(std.flatten().repeat(width))
    return rows.view(height, width, channels).permute(2, 0, 1)


def resize_antialiased(image: Tensor, size: tuple[int, int], *, fast: bool) -> Tensor:
    """Resize an image [3, h, w] uint8 with Pillow's bilinear filter. Return values from 0 to 255 [3, *size].

    With `fast` the values are integers on a CPU: 12 million pixels take 10 ms, and 240 ms in float32. The float32
    values are those of exported models.
    """
    pixels = image if fast and image.device.type == "cpu" else image.float()
    return F.interpolate(pixels[None], size, mode="bilinear", antialias=True)[0]


def to_input(boxes: Tensor, frame: Frame) -> Tensor:
    """Convert boxes [..., 4] from the pixels of the original image to those of the network's input."""
    return boxes * boxes.new_tensor((frame.scale_x, frame.scale_y, frame.scale_x, frame.scale_y))


def to_original(found: Found, frame: Frame) -> Found:
    """Convert detections or proposals from the pixels of the network's input to those of the original image."""
    scale = found.boxes.new_tensor((frame.scale_x, frame.scale_y, frame.scale_x, frame.scale_y))
    return replace(found, boxes=found.boxes / scale)


def _scaled(side: int, scale: float) -> int:
    return max(1, round(scale * side))


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
