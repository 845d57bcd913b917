"""Detection in pictures far larger than the network's input: overlapping tiles, and the whole picture.

An object cut by the edge of a tile is left out there. The next tile sees all of it if it is smaller than the overlap.
Larger objects are found in the whole picture. NMS joins all detections, so no seam remains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from detector.postprocess import Postprocess
from detector.structures import Detections
from detector.views import join

EDGE = 0.01  # of a tile's side: a box as near as this to an inner edge is cut


class Tile(NamedTuple):
    """A part of a picture, in its pixels."""

    left: int
    top: int
    right: int
    bottom: int


def tiles_of(height: int, width: int, side: int, overlap: float) -> list[Tile]:
    """Return square tiles that cover the picture, row by row. Neighbours share at least `overlap` of the side.

    A picture smaller than the tile has one tile with its size.
    """
    tops, lefts = (_starts(length, side, overlap) for length in (height, width))
    return [Tile(left, top, min(left + side, width), min(top + side, height)) for top in tops for left in lefts]


def _starts(length: int, side: int, overlap: float) -> list[int]:
    if length <= side:
        return [0]
    count = 1 + math.ceil((length - side) / max(1.0, side * (1 - overlap)))
    return [round(index * (length - side) / (count - 1)) for index in range(count)]


def detect_in_tiles(
    image: Tensor,
    side: int,
    overlap: float,
    candidates: Callable[[Sequence[Tensor]], list[Detections]],
    postprocess: Postprocess,
    batch_size: int = 1,
) -> Detections:
    """Return the detections of an image [3, H, W], best first, in its pixels.

    `candidates` gives the detections of images before NMS, with `batch_size` tiles in one call. `postprocess` has the
    NMS. Its `max_per_image` counts for each tile: the whole picture keeps at most that many detections times the number
    of tiles.
    """
    height, width = image.shape[1:]
    found = candidates([image])
    tiles = tiles_of(height, width, side, overlap)
    if len(tiles) > 1:
        cutouts = [image[:, tile.top : tile.bottom, tile.left : tile.right] for tile in tiles]
        batches = (cutouts[start : start + batch_size] for start in range(0, len(cutouts), batch_size))
        parts = chain.from_iterable(map(candidates, batches))
        for tile, seen in zip(tiles, parts, strict=True):
            part = seen[~is_cut(seen.boxes, tile, height, width)]
            shift = part.boxes.new_tensor((tile.left, tile.top, tile.left, tile.top))
            found.append(Detections(part.boxes + shift, part.scores, part.labels))
    most = postprocess.max_per_image * len(tiles)
    return replace(postprocess, max_per_image=most).suppress(join(found))


def is_cut(boxes: Tensor, tile: Tile, height: int, width: int) -> Tensor:
    """Return for each of boxes [D, 4], in the tile's pixels, whether an edge of the tile inside the picture cuts it."""
    tile_width, tile_height = tile.right - tile.left, tile.bottom - tile.top
    near_x, near_y = EDGE * tile_width, EDGE * tile_height
    x1, y1, x2, y2 = boxes.unbind(1)
    cut = torch.zeros_like(x1, dtype=torch.bool)
    if tile.left > 0:
        cut |= x1 < near_x
    if tile.top > 0:
        cut |= y1 < near_y
    if tile.right < width:
        cut |= x2 > tile_width - near_x
    if tile.bottom < height:
        cut |= y2 > tile_height - near_y
    return cut
