"""Shapes on texture, drawn from a seed: a detection dataset without files that a small network learns in minutes.

A class is an outline with a hue; brightness, size, aspect and texture vary. Some objects are small, and others cover
some of them in part (occluded). Tiny and nearly hidden objects are marked difficult.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from detector.datasets.sample import Annotation

CLASSES = ("disc", "square", "triangle", "cross", "diamond", "ring")
# Hue of each class in degrees. Classes with neighbouring hues have different outlines.
HUES = (0, 60, 120, 180, 240, 300)
TINY = 10.0  # pixels; an object with a shorter side below this is difficult
HIDDEN = 0.6  # an object is difficult if others cover more than this fraction of it
OCCLUDED = 0.15  # an object is occluded if others cover more than this fraction of it

Array = npt.NDArray[np.float32]


class SyntheticDataset:
    """Images are functions of (seed, split, index), so splits share no image."""

    classes: tuple[str, ...] = CLASSES
    annotations: Sequence[Annotation]

    def __init__(self, split: str, *, num_images: int, height: int, width: int, seed: int) -> None:
        self._scenes = [_scene(split, index, height, width, seed) for index in range(num_images)]
        self.annotations = [annotation for _, annotation in self._scenes]

    def image(self, index: int) -> Tensor:
        """Return the picture [3, H, W] uint8."""
        return torch.from_numpy(self._scenes[index][0]).permute(2, 0, 1).contiguous()


def _scene(split: str, index: int, height: int, width: int, seed: int) -> tuple[npt.NDArray[np.uint8], Annotation]:
    rng = np.random.default_rng([seed, int.from_bytes(split.encode(), "little"), index])
    canvas = _background(height, width, rng)
    owner = np.full((height, width), -1)  # index of the object that each pixel shows; -1: background
    visible_before: list[int] = []
    boxes: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    for _ in range(int(rng.integers(1, 5))):
        label = int(rng.integers(len(CLASSES)))
        side = (
            np.exp(rng.uniform(np.log(0.1 * height), np.log(0.75 * height)))
            if rng.random() > 0.06
            else rng.uniform(6, 10)
        )
        aspect = np.exp(rng.uniform(-0.35, 0.35))
        w, h = (
            max(5, min(limit - 2, round(side * factor))) for limit, factor in ((width, aspect), (height, 1 / aspect))
        )
        x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        if any(_covered((x, y, x + w, y + h), other) > 0.5 for other in boxes):
            continue
        mask = _outline(label, w, h)
        region = canvas[y : y + h, x : x + w]
        region[mask] = (_color(label, rng) + rng.normal(0, 14, (h, w, 1)))[mask]
        owner[y : y + h, x : x + w][mask] = len(boxes)
        visible_before.append(int(mask.sum()))
        boxes.append((x, y, x + w, y + h))
        labels.append(label + 1)
    hidden = [1 - float((owner == number).sum()) / max(1, area) for number, area in enumerate(visible_before)]
    short = [min(x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes]
    pixels = np.clip(canvas * rng.uniform(0.8, 1.15) + rng.normal(0, 5, canvas.shape), 0, 255).astype(np.uint8)
    return pixels, Annotation(
        image_id=f"{split}_{index:05d}",
        width=width,
        height=height,
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.int64),
        difficult=torch.tensor([a < TINY or b > HIDDEN for a, b in zip(short, hidden, strict=True)], dtype=torch.bool),
        truncated=torch.zeros(len(boxes), dtype=torch.bool),
        occluded=torch.tensor([value > OCCLUDED for value in hidden], dtype=torch.bool),
    )


def _background(height: int, width: int, rng: np.random.Generator) -> Array:
    """Return a grey texture at two scales."""
    canvas = np.full((height, width, 3), rng.uniform(70, 170), np.float32)
    for cell, amount in ((24, 22), (6, 10)):
        low = rng.normal(128, amount, (height // cell + 2, width // cell + 2)).clip(0, 255).astype(np.uint8)
        smooth = Image.fromarray(low).resize((width, height), Image.Resampling.BICUBIC)
        canvas += (np.asarray(smooth, np.float32) - 128)[..., None]
    return canvas


def _color(label: int, rng: np.random.Generator) -> Array:
    """Return a random colour near the hue of the class, with random brightness and saturation."""
    hue = np.deg2rad(HUES[label] + rng.uniform(-14, 14))
    wheel = np.array([np.cos(hue), np.cos(hue - 2.0944), np.cos(hue + 2.0944)])
    return (rng.uniform(100, 150) + rng.uniform(70, 105) * wheel).astype(np.float32)


@lru_cache(maxsize=4096)
def _outline(label: int, width: int, height: int) -> npt.NDArray[np.bool_]:
    """Return the mask [height, width] of the class's shape. It touches all four sides."""
    mask = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(mask)
    w, h = width - 1, height - 1
    match CLASSES[label]:
        case "disc":
            draw.ellipse((0, 0, w, h), fill=1)
        case "square":
            draw.rectangle((0, 0, w, h), fill=1)
        case "triangle":
            draw.polygon([(w / 2, 0), (w, h), (0, h)], fill=1)
        case "cross":
            draw.rectangle((w * 0.33, 0, w * 0.67, h), fill=1)
            draw.rectangle((0, h * 0.33, w, h * 0.67), fill=1)
        case "diamond":
            draw.polygon([(w / 2, 0), (w, h / 2), (w / 2, h), (0, h / 2)], fill=1)
        case "ring":
            draw.ellipse((0, 0, w, h), fill=1)
            draw.ellipse((w * 0.3, h * 0.3, w * 0.7, h * 0.7), fill=0)
    return np.asarray(mask, bool)


def _covered(box: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """Return the fraction of the smaller of two boxes that the other covers."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    smaller = min((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
    return max(0, width) * max(0, height) / smaller
