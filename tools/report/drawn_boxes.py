"""A picture with its boxes as one <svg>: the pixels as an embedded JPEG, boxes and names as vector graphics over it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image
from torch import Tensor

Box = tuple[float, float, float, float]  # xyxy, pixels of the picture


@dataclass(frozen=True, slots=True)
class Mark:
    """A box to draw."""

    box: Box
    kind: str  # the CSS class
    text: str  # beside the box; may be empty


def drawn_boxes(picture: Tensor, marks: Sequence[Mark], *, region: Box | None = None, longest: int = 460) -> str:
    """Draw the picture [3, H, W] uint8, or a region of it, with a longer side of `longest` CSS pixels."""
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    left, top, right, bottom = _inside(region, image.size) if region else (0, 0, *image.size)
    image = image.crop((left, top, right, bottom))
    scale = longest / max(image.size)
    width, height = image.width * scale, image.height * scale
    if scale < 0.5:  # two pixels per CSS pixel are enough for a high-density screen
        image = image.resize((round(2 * width), round(2 * height)))
    parts = [f'<image href="{_data_uri(image)}" width="{width:.1f}" height="{height:.1f}"/>']
    for mark in marks:
        x1, y1, x2, y2 = ((value - start) * scale for value, start in zip(mark.box, (left, top) * 2, strict=True))
        parts.append(
            f'<rect class="mark {mark.kind}" x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}">'
            f"<title>{escape(mark.text or mark.kind)}</title></rect>"
        )
        if mark.text:
            x = min(max(x1, 0.0) + 3, width - 6.6 * len(mark.text))
            y = y1 - 4 if y1 > 14 else max(y1, 0.0) + 13
            parts.append(f'<text class="name {mark.kind}" x="{max(x, 2):.1f}" y="{y:.1f}">{escape(mark.text)}</text>')
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.1f} {height:.1f}"'
    return f'<svg class="picture" {size} xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'


def around(boxes: Sequence[Box], margin: float = 0.35, least: float = 80.0) -> Box:
    """Return a region that holds all boxes and a margin, with sides of `least` pixels or more."""
    x1, y1 = (min(box[side] for box in boxes) for side in (0, 1))
    x2, y2 = (max(box[side] for box in boxes) for side in (2, 3))
    extra_x = max(margin * (x2 - x1), (least - (x2 - x1)) / 2)
    extra_y = max(margin * (y2 - y1), (least - (y2 - y1)) / 2)
    return x1 - extra_x, y1 - extra_y, x2 + extra_x, y2 + extra_y


def _inside(region: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Round the region to whole pixels inside a picture of `size`. Keep at least one pixel."""
    left, top = (min(max(0, int(region[side])), size[side] - 1) for side in (0, 1))
    right, bottom = (
        max(min(size[side], int(region[side + 2]) + 1), start + 1) for side, start in ((0, left), (1, top))
    )
    return left, top, right, bottom


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=84)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
