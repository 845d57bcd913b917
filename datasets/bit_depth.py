"""The bit depth of pictures with more than 8 bits: one range for the whole dataset, so that dark pictures stay dark."""

from __future__ import annotations

from collections.abc import Sequence

from detector.datasets.images import UNREADABLE, depth_of, open_picture, read_maximum
from detector.datasets.tar_shards import File

DEEP_SUFFIXES = (".png", ".tif", ".tiff")
HEADERS = 8  # number of pictures whose headers are read, to see if any has more than 8 bits
SAMPLED = 64  # number of pictures whose values are read, to find the bit depth


def common_depth(files: Sequence[File]) -> int | None:
    """Return the bits that hold every value of a sample of the pictures.

    None if the first pictures have 8 bits, or if all values are floats from 0 to 1: they need no bit depth.
    """
    able = [path for path in files if path.suffix.lower() in DEEP_SUFFIXES]
    if not any(_is_deep(path) for path in able[:HEADERS]):
        return None
    chosen = able[:: max(1, len(able) // SAMPLED)]
    maxima = [value for value in map(read_maximum, chosen) if value is not None]
    highest = max(maxima, default=0.0)
    return depth_of(highest) if highest > 1 else None


def _is_deep(path: File) -> bool:
    try:
        with open_picture(path) as picture:
            return picture.mode.startswith(("I", "F"))
    except UNREADABLE:
        return False
