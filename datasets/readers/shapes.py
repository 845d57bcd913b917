"""Boxes around shapes that are not upright rectangles."""

from __future__ import annotations

import math
from collections.abc import Sequence

Box = tuple[float, float, float, float]


def bounding_box(points: Sequence[Sequence[float]]) -> Box:
    """Return the upright box around points (x, y)."""
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    if not all(map(math.isfinite, (*xs, *ys))):
        return (math.nan,) * 4
    return min(xs), min(ys), max(xs), max(ys)


def rotated_box(x: float, y: float, width: float, height: float, degrees: float, *, about_centre: bool) -> Box:
    """Return the upright box around a rectangle rotated clockwise about its centre or its first corner (x, y).

    Raises ValueError for an infinite or undefined angle.
    """
    if not math.isfinite(degrees):
        raise ValueError(f"its rotation is {degrees:g} degrees; expected a finite number")
    if not degrees:
        return x, y, x + width, y + height
    angle = math.radians(degrees)
    mx, my = (x + width / 2, y + height / 2) if about_centre else (x, y)
    corners = [(x, y), (x + width, y), (x, y + height), (x + width, y + height)]
    return bounding_box(
        [
            (
                mx + (cx - mx) * math.cos(angle) - (cy - my) * math.sin(angle),
                my + (cx - mx) * math.sin(angle) + (cy - my) * math.cos(angle),
            )
            for cx, cy in corners
        ]
    )
