"""Large-scale jitter: a sample is trained at a random factor of its planned size.

Above 1, a random crop of the planned size is trained. It is cut out before the image is resized, so it costs less than
the whole image. Below 1, the whole image is trained at a smaller size; the batch pads it.
Source: Ghiasi et al. 2021, "Simple Copy-Paste", section 3; the factor is uniform, as in Detectron2's `ResizeScale`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from detector.datasets.crops import cropped, random_window
from detector.datasets.sample import Sample


def planned_size(width: int, height: int, short_side: int, max_side: int) -> tuple[int, int]:
    """Return the planned (width, height): the shorter side is `short_side`, and the longer is at most `max_side`."""
    scale = min(short_side / min(width, height), max_side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def jittered(sample: Sample, factor: float, max_side: int, rng: np.random.Generator) -> Sample:
    """Return the sample at `factor` times its planned size, or a random crop of it that has the planned size."""
    width, height = sample.annotation.width, sample.annotation.height
    side = min(planned_size(width, height, sample.short_side, max_side))
    if factor <= 1:
        return replace(sample, short_side=max(1, round(factor * side)))
    shorter = max(1, round(min(width, height) / factor))
    longer = shorter * max(width, height) // min(width, height)  # not rounded up: the crop must not exceed the plan
    size = (shorter, longer) if width < height else (longer, shorter)
    return replace(cropped(sample, random_window(sample.annotation, *size, rng)), short_side=side)
