"""Anchors: boxes of several scales and aspects at every cell of a feature map (Faster R-CNN 3.1.1)."""

from __future__ import annotations

import torch
from torch import Tensor


def base_anchors(stride: int, scales: tuple[float, ...], aspects: tuple[float, ...]) -> Tensor:
    """Return the anchors [A, 4] of the first cell, aspect-major, half-open.

    The first published anchor is (-84, -40, 100, 56). Widths and heights are rounded as in the original, but not to 0:
    an anchor without area matches nothing. Source: py-faster-rcnn `lib/rpn/generate_anchors.py`. Its boxes are
    inclusive, so x2 and y2 are larger by 1 here.
    """
    rows = []
    centre = (stride - 1) / 2
    for aspect in aspects:
        width = max(1, round((stride * stride / aspect) ** 0.5))
        height = max(1, round(width * aspect))
        for scale in scales:
            half_width, half_height = (width * scale - 1) / 2, (height * scale - 1) / 2
            rows.append((centre - half_width, centre - half_height, centre + half_width + 1, centre + half_height + 1))
    return torch.tensor(rows)


def corner_anchors(stride: int, scales: tuple[float, ...], aspects: tuple[float, ...]) -> Tensor:
    """Return the anchors [A, 4] of the first cell as in torchvision's detectors, aspect-major.

    Their centre is the cell's upper left corner, and half of each side is rounded.
    Source: torchvision `models/detection/anchor_utils.py`.
    """
    heights = torch.tensor(aspects).sqrt()
    sizes = stride * torch.tensor(scales)
    width, height = ((ratio[:, None] * sizes).flatten() for ratio in (1 / heights, heights))
    return (torch.stack((-width, -height, width, height), dim=1) / 2).round()


def anchor_grid(base: Tensor, height: int, width: int, cell: tuple[int, int]) -> Tensor:
    """Return the anchors [height * width * A, 4] of a feature map: cells in row-major order, all anchors of each.

    `cell` is the (height, width) of a cell in input pixels.
    """
    top, left = (torch.arange(n, device=base.device) * side for n, side in zip((height, width), cell, strict=True))
    y, x = torch.meshgrid(top, left, indexing="ij")
    shift = torch.stack((x, y, x, y), dim=-1).reshape(-1, 1, 4)
    return (shift + base).reshape(-1, 4)
