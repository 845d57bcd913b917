"""The faults of a box, and the rules that correct some of them for `detector inspect fix=FOLDER`."""

from __future__ import annotations

import math
from typing import NamedTuple

from detector.datasets.box_convention import exchanged
from detector.datasets.records import MarkedObject

INSIDE = 0.9  # a box with at least this fraction of its area inside the image is clipped
ROUNDING = 1.0  # pixels beyond the edge that come from rounding, or from counting from 0; clipped without a warning
FEW_PIXELS = 5.0  # a box at most this far beyond the edge is corrected by clipping,
MOSTLY = 0.5  # if at least this fraction of its area is inside the image; so is a box around a turned or round shape


class Corrected(NamedTuple):
    """An object with a corrected box, and the rule."""

    item: MarkedObject
    rule: str


def box_problem(item: MarkedObject, width: int, height: int) -> str | None:
    """Return the reason why a box cannot be used in an image of this size. None if it can."""
    x1, y1, x2, y2 = item.box
    if not all(map(math.isfinite, item.box)):
        return f"{item.where} has a box that is not finite, {item.box_text}; correct or remove it"
    if max(map(abs, item.box)) <= 1 < max(width, height):
        return (
            f"{item.where} is inside the first pixel, {item.box_text}; expected pixels in this format: if these are "
            "fractions, multiply them by the size of the picture"
        )
    # If corners are pixel numbers, a side of one pixel is valid in principle. But the published files have no such box,
    # and broken files do.
    least = 0 if item.pixel_base is None else 1
    if not (x2 - x1 > least and y2 - y1 > least):
        return f"{item.where} has no area or is inverted, {item.box_text}; correct or remove it"
    inside = max(0.0, min(x2, width) - max(x1, 0.0)) * max(0.0, min(y2, height) - max(y1, 0.0))
    # A box of few pixels can lose a tenth of its area by rounding.
    least_inside = MOSTLY if item.is_around else INSIDE
    if inside > 0 and (not crosses_edge(item, width, height) or inside >= least_inside * (x2 - x1) * (y2 - y1)):
        return None
    if item.pixel_base == 1 and min(x1, y1) < 0:
        return (
            f"{item.where} starts before pixel 1, {item.box_text}, but these boxes count from 1; "
            "correct it, or set dataset.box_base=zero if all files count from 0"
        )
    return f"{item.where} lies outside the image of {width}x{height}, {item.box_text}; correct or remove it"


def crosses_edge(item: MarkedObject, width: int, height: int) -> bool:
    """Return True if a box extends beyond its image by more than the rounding of its format."""
    x1, y1, x2, y2 = item.box
    before = ROUNDING if item.pixel_base is None else 0
    # Tools that count pixels from 0 often write the size of the image as the maximum.
    beyond = 0 if item.pixel_base == 1 else ROUNDING
    return max(-x1, -y1) > before or max(x2 - width, y2 - height) > beyond


def corrected_box(item: MarkedObject, width: int, height: int) -> Corrected | None:
    """Return a faulty object with a box that can be used; None if no rule applies.

    Corners in the wrong order are exchanged. A box that is mostly inside its image, and at most a few pixels beyond its
    edge, is clipped.
    """
    if not all(map(math.isfinite, item.box)):
        return None
    x1, y1, x2, y2 = box = exchanged(item.box, item.pixel_base)
    inside = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    if max(-x1, -y1, x2 - width, y2 - height) <= FEW_PIXELS and _area(inside) >= MOSTLY * _area(box):
        box = inside
    better = item._replace(box=box)
    if box_problem(better, width, height) is not None:
        return None
    return Corrected(better, "clipped" if (x1, y1) == item.box[:2] else "corners exchanged")


def _area(box: tuple[float, float, float, float]) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
