"""Worked examples for `detector explain`: feature maps, RoIs and options of published explanations of RoI pooling.

`deepsense` is the 8 x 8 map of the "Region of interest pooling explained" post. `post` is the cat of "Understanding
Region of Interest" (only its geometry is published, so its map is random). `slides` is the 25 x 18 map of lecture
slides on RoIAlign. `ramp` and `ps_ramp` have the values 10 y + x (+ 100 per score map), so a value shows its cell.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

DEEPSENSE = """
88 44 14 16 37 77 96 27
19 45 57 16 63 29 71 70
66 26 82 64 54 73 59 26
85 34 76 84 29 75 62 25
32 74 21 39 34  3 33 48
20 14 16 13 73 65 96 32
19 69  9 86 88  7  1 48
83 24 97  4 24 35 50 91
"""

# Three cells of row 5 (columns 7 to 9) are hidden by a label in the slides and are 0 here; no example reads them.
SLIDES = """
 2  1  8  3  5  5  9  7  7  2  1  3  8  8  5  4  4  2  1  1  7  3  6  5  1
 5  3  6  8  1  2  1  2  1  9 10  8  9  1  9  7  3  3 10  2  6 10  7  3  2
 4  5  7  2  4  9  3 10  2  2  4  2  2  3  4  6  2  5  4  1  3  1  9  3  5
 5  1  2  9  8  7  2  1  8  3  5  5  9  7  7  2  1  3  6  5  9  7  7  2  1
 3  2  5  6  2  4  5  3  6  8  1  2  1  2  1  9 10 10  7  3  1  2  1  9 10
 4  2  3  4  6  2  4  0  0  0  5  9  3 10  2  2  4  1  9  3  3 10  2  2  4
 2  1  1  7  3  6  5  1  2  9  8  7  4  5  5  3  1  7  7  2  2  1  8  3  5
 3 10  2  6 10  7  3  2  5  6  2  4  4  2 10  9  8  2  1  9  5  3  6  8  1
 5  4  1  3  1  9  3  5  7  4  3  2  5  8  8  1  4 10  2  2  4  5  7  2  4
 9  7  7  2  1  3  8  8  5  4  4  2  1  1  7  3  6  1  8  3  5  1  2  9  8
 1  2  1  9 10  8  9  1  9  7  3  3 10  2  8 10  7  3  6  8  3  2  5  6  2
 3 10  2  2  4  2  2  3  4  6  2  5  4  1  3  1  9  5  7  2  3  5  7  4  3
 4  5  5  3  1  9  9  7  7  2  1  3  8  8  5  4  4  1  2  9  8  8  5  4  4
 4  2 10  9  8  6  1  2  1  9 10  8  9  1  9  7  3  2  5  6  9  1  9  7  3
 5  8  8  1  4  4  3 10  2  2  4  2  2  3  4  6  2  5  7  4  2  3  4  6  2
 1  1  7  3  6  4  3  6  9  7  7  2  1  3  8  8  5  4  4  2  1  1  7  3  6
10  2  6 10  7  7 10  7  1  2  1  9 10  8  9  1  9  7  3  3 10  2  6 10  7
 4  1  3  1  9  6  1  9  3 10  2  2  4  2  2  3  4  6  2  5  4  1  3  1  9
"""


@dataclass(frozen=True, slots=True)
class Example:
    """Arguments of an operator as words of the command line. Options that the operator does not have are ignored."""

    map: str
    rois: str
    output_size: str
    spatial_scale: str
    options: dict[str, str] = field(default_factory=dict)


EXAMPLES = {
    "deepsense": Example("deepsense", "0,3,7,8", "2", "1", {"quantization": "split"}),
    "post": Example("random", "296,192,496,337", "3", "1/32", {"quantization": "floor", "map_size": "16"}),
    "slides": Example(
        "slides",
        "300,210,530,390",
        "3",
        "1/32",
        {"quantization": "floor", "sampling_ratio": "2", "sample_grid": "inner", "reduction": "max"},
    ),
    "ramp": Example("ramp", "16,16,63,63", "2", "1/16"),
    "ps_ramp": Example("ps_ramp", "16,16,63,63", "2", "1/16"),
}

# The default example of each operator.
DEFAULTS = {
    "roi_pool": "deepsense",
    "roi_align": "slides",
    "roi_warp": "slides",
    "ps_roi_pool": "ps_ramp",
    "ps_roi_vote": "ps_ramp",
    "ps_roi_align": "ps_ramp",
}


def named_map(name: str) -> Tensor | None:
    """The feature map [C, H, W] float32 called `name`; None if there is no such map."""
    ramp = torch.arange(6.0)[:, None] * 10 + torch.arange(6.0)
    match name:
        case "deepsense":
            return _parsed(DEEPSENSE, 100)
        case "slides":
            return _parsed(SLIDES, 10)
        case "ramp":
            return ramp[None]
        case "ps_ramp":
            return torch.arange(4.0)[:, None, None] * 100 + ramp
        case _:
            return None


NAMED_MAPS = ("deepsense", "slides", "ramp", "ps_ramp")


def _parsed(text: str, divisor: float) -> Tensor:
    return torch.tensor([[float(word) for word in line.split()] for line in text.strip().splitlines()])[None] / divisor
