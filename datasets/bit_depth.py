"""How bright the deep pictures of a dataset are: one range for all, so that a dim picture stays dim."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from detector.datasets.images import UNREADABLE, depth_of, read_maximum

DEEP_SUFFIXES = (".png", ".tif", ".tiff")
HEADERS = 8  # pictures whose headers say whether a dataset is deep
LOOKED_AT = 64  # pictures whose values say how deep


def common_depth(files: Sequence[Path]) -> int | None:
    """The bits that hold every value of evenly chosen pictures; None if the first ones have 8 bits or are floats of 0
    to 1, which say so themselves.
    """
    able = [path for path in files if path.suffix.lower() in DEEP_SUFFIXES]
    if not any(_is_deep(path) for path in able[:HEADERS]):
        return None
    chosen = able[:: max(1, len(able) // LOOKED_AT)]
    maxima = [value for value in map(read_maximum, chosen) if value is not None]
    highest = max(maxima, default=0.0)
    return depth_of(highest) if highest > 1 else None


def _is_deep(path: Path) -> bool:
    try:
        with Image.open(path) as picture:
            return picture.mode.startswith(("I", "F"))
    except UNREADABLE:
        return False
