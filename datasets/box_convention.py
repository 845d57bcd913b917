"""Converts pixel-number corners to the boxes of this project. No other file does this.

VOC annotations and published proposals hold the numbers of the first and the last pixel of a box, counted from 1 (by
some tools from 0). Boxes of this project are 0-based and half-open: a box starts at the near edge of its first pixel
and ends at the far edge of its last pixel. So for boxes counted from 1, the minima decrease by 1 and the maxima stay.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def half_open(corners: Tensor, base: int) -> Tensor:
    """Return boxes [..., 4] xyxy, 0-based, half-open, of inclusive corners [..., 4] counted from `base` (0 or 1)."""
    return corners - corners.new_tensor((base, base, base - 1, base - 1))


def half_open_corners(corners: Sequence[float], base: int) -> tuple[float, float, float, float]:
    """Return `half_open` of one box, as plain numbers."""
    xmin, ymin, xmax, ymax = corners
    return xmin - base, ymin - base, xmax - base + 1, ymax - base + 1


def exchanged(box: Sequence[float], base: int | None) -> tuple[float, float, float, float]:
    """Return a half-open box with its corners in order. `base` None: the corners were positions, no pixel numbers."""
    pixel = 0 if base is None else 1  # a maximum that was taken for a minimum is one pixel too small
    x1, y1, x2, y2 = box
    if x2 < x1:
        x1, x2 = x2 - pixel, x1 + pixel
    if y2 < y1:
        y1, y2 = y2 - pixel, y1 + pixel
    return x1, y1, x2, y2
