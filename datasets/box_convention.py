"""The one place where corners that name pixels become this project's boxes.

VOC annotations and published proposals give the numbers of the first and the last pixel of a box, counted from 1 (or,
from some tools, from 0). This project's boxes are 0-based and half-open: a box begins at the near edge of its first
pixel and ends at the far edge of its last. So boxes counted from 1 lose 1 from their minima, and keep their maxima.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def half_open(corners: Tensor, base: int) -> Tensor:
    """Boxes [..., 4] xyxy 0-based half-open of inclusive corners [..., 4] counted from `base`, 0 or 1."""
    return corners - corners.new_tensor((base, base, base - 1, base - 1))


def half_open_corners(corners: Sequence[float], base: int) -> tuple[float, float, float, float]:
    """`half_open` for one box of plain numbers."""
    xmin, ymin, xmax, ymax = corners
    return xmin - base, ymin - base, xmax - base + 1, ymax - base + 1
