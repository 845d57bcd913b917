"""Boxes on images, for TensorBoard and for predictions alike."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from detector.structures import Detections, Instances


def class_color(label: int) -> tuple[int, int, int]:
    """A colour of its own for each label: hues by the golden ratio, so neighbours differ."""
    red, green, blue = colorsys.hsv_to_rgb((label * 0.618034) % 1.0, 0.85, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_detections(
    image: Tensor, detections: Detections, classes: Sequence[str], truths: Instances | None = None
) -> Image.Image:
    """The image [3, H, W] uint8 with every detection's box, name and score; truths as thin white boxes beneath."""
    picture = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    draw = ImageDraw.Draw(picture)
    side = max(picture.size)
    font = ImageFont.load_default(size=max(10, side // 50))
    line = max(1, side // 300)
    if truths is not None:
        for box in truths.boxes.tolist():
            draw.rectangle(_corners(box), outline=(255, 255, 255), width=max(1, line // 2))
    for index in reversed(range(len(detections))):  # best last, so on top
        label = int(detections.labels[index])
        box = detections.boxes[index].tolist()
        color = class_color(label)
        draw.rectangle(_corners(box), outline=color, width=line)
        text = f"{classes[label - 1]} {float(detections.scores[index]):.2f}"
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        width, height = right - left + 4, bottom - top + 4
        x, y = box[0], box[1] - height if box[1] >= height else box[1]
        draw.rectangle((x, y, x + width, y + height), fill=color)
        draw.text((x + 2 - left, y + 2 - top), text, fill=(0, 0, 0), font=font)
    return picture


def to_tensor(picture: Image.Image) -> Tensor:
    """A picture as [3, H, W] uint8, as TensorBoard takes it."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


def _corners(box: list[float]) -> tuple[float, float, float, float]:
    """Pixels that a half-open box covers: the rectangle that PIL draws includes its last row and column."""
    return box[0], box[1], max(box[0], box[2] - 1), max(box[1], box[3] - 1)
