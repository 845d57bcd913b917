"""Draws boxes on images, for TensorBoard and for predictions."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from detector.structures import Detections, Instances


def class_color(label: int) -> tuple[int, int, int]:
    """Return the colour of a label. Hues step by the golden ratio, so neighbouring labels differ clearly."""
    red, green, blue = colorsys.hsv_to_rgb((label * 0.618034) % 1.0, 0.85, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_detections(
    image: Tensor, detections: Detections, classes: Sequence[str], ground_truth: Instances | None = None
) -> Image.Image:
    """Draw each detection's box, name and score on the image [3, H, W] uint8, over thin white ground-truth boxes."""
    picture = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    draw = ImageDraw.Draw(picture)
    side = max(picture.size)
    font = ImageFont.load_default(size=max(10, side // 50))
    line = max(1, side // 300)
    if ground_truth is not None:
        for box in ground_truth.boxes.tolist():
            draw.rectangle(_corners(box), outline=(255, 255, 255), width=max(1, line // 2))
    for index in reversed(range(len(detections))):  # best last, so that it is on top
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
    """Return a picture as a tensor [3, H, W] uint8, the form that TensorBoard takes."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


def _corners(box: list[float]) -> tuple[float, float, float, float]:
    """Return the corners for PIL of a half-open box: PIL's rectangles include the last row and column."""
    return box[0], box[1], max(box[0], box[2] - 1), max(box[1], box[3] - 1)
