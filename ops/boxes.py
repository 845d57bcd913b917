"""Box arithmetic as pure functions: area, IoU, clip, encode, decode, flip, resize, RoI lists.

All boxes are [..., 4] xyxy in pixels, continuous and half-open, so width is x2 - x1 and no formula has a "+1". Every
function accepts empty inputs and returns new tensors. Box arithmetic is float32 (float64 for float64 boxes), also under
autocast.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# A 16-pixel box may grow to 1000 pixels at most, so that exp() of a large prediction, early in training, stays finite.
# Source: torchvision and Detectron2; the original Fast R-CNN has no clamp.
DELTA_CLAMP = math.log(1000.0 / 16.0)

# Maximum size in bytes of a tile of an IoU matrix, with temporaries; limits the memory of `best_match`.
TILE_BYTES = 64 << 20


def area(boxes: Tensor) -> Tensor:
    """Areas [...] of boxes [..., 4], in square pixels; an inverted box has area 0."""
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union [N, M] of boxes [N, 4] with others [M, 4]; 0 where the union is empty.

    Computes one coordinate at a time, so that the temporaries are [N, M] and never [N, M, 2].
    """
    left = torch.maximum(boxes[:, None, 0], others[None, :, 0])
    width = torch.minimum(boxes[:, None, 2], others[None, :, 2]).sub_(left).clamp_(min=0)
    top = torch.maximum(boxes[:, None, 1], others[None, :, 1])
    height = torch.minimum(boxes[:, None, 3], others[None, :, 3]).sub_(top).clamp_(min=0)
    intersection = width.mul_(height)
    union = (area(boxes)[:, None] + area(others)[None, :]).sub_(intersection)
    return torch.where(union > 0, intersection / union, 0.0)


def best_match(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Largest IoU [N] of each of boxes [N, 4] with others [G, 4], and the index [N] int64 of the box that has it.

    Of equal IoUs the first box wins, as in `argmax`. With G = 0, every IoU and every index is 0. The matrix is computed
    in tiles of at most TILE_BYTES, so that memory does not grow with N x G.
    """
    num_boxes, num_others = boxes.shape[0], others.shape[0]
    if num_others == 0 or num_boxes == 0:
        return boxes.new_zeros(num_boxes), torch.zeros(num_boxes, dtype=torch.int64, device=boxes.device)
    rows = max(1, TILE_BYTES // (4 * boxes.element_size() * num_others))
    tiles = [iou(tile, others).max(dim=1) for tile in boxes.split(rows)]
    return torch.cat([tile.values for tile in tiles]), torch.cat([tile.indices for tile in tiles])


def clip(boxes: Tensor, height: float, width: float) -> Tensor:
    """Boxes [..., 4] cut to the image [0, width] x [0, height]."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)), dim=-1)


def flip(boxes: Tensor, width: float) -> Tensor:
    """Boxes [..., 4] mirrored left to right in an image of the given width."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((width - x2, y1, width - x1, y2), dim=-1)


def flip_vertical(boxes: Tensor, height: float) -> Tensor:
    """Boxes [..., 4] mirrored top to bottom in an image of the given height."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((x1, height - y2, x2, height - y1), dim=-1)


def encode(boxes: Tensor, references: Tensor) -> Tensor:
    """Regression targets [..., 4] (tx, ty, tw, th) that map `references` to `boxes`, both [..., 4].

    tx = (x - xr) / wr, ty likewise, tw = log(w / wr), th likewise, with x the centre. Widths and heights are clamped to
    at least a thousandth of a pixel, so the result is always finite.
    Source: R-CNN appendix C; Fast R-CNN 2.3.
    """
    x, y, w, h = _centres(boxes)
    xr, yr, wr, hr = _centres(references)
    return torch.stack(((x - xr) / wr, (y - yr) / hr, (w / wr).log(), (h / hr).log()), dim=-1)


def decode(deltas: Tensor, references: Tensor, clamp: float = DELTA_CLAMP) -> Tensor:
    """Apply deltas [..., 4] to references [..., 4] (broadcast) and return boxes [..., 4]: the inverse of `encode`.

    tw and th are clamped to at most `clamp`, so that a box grows at most exp(clamp) times.
    """
    xr, yr, wr, hr = _centres(references)
    tx, ty, tw, th = deltas.to(references.dtype).unbind(-1)
    x, y = tx * wr + xr, ty * hr + yr
    half_w, half_h = tw.clamp(max=clamp).exp() * wr * 0.5, th.clamp(max=clamp).exp() * hr * 0.5
    return torch.stack((x - half_w, y - half_h, x + half_w, y + half_h), dim=-1)


def to_rois(boxes: list[Tensor], *, inclusive: bool = False) -> Tensor:
    """RoIs [R, 5] (image index, x1, y1, x2, y2) from a list of boxes [R_i, 4], one tensor per image.

    With `inclusive`, 1 is subtracted from x2 and y2. The published pooling operators (`roi_pool` with the caffe rule,
    `ps_roi_pool`) expect the last pixel inside a box; this project's boxes end one pixel later.
    """
    rois = [
        torch.cat((part.new_full((part.shape[0], 1), float(index)), part), dim=1) for index, part in enumerate(boxes)
    ]
    joined = torch.cat(rois) if rois else torch.zeros(0, 5)
    return joined - joined.new_tensor((0, 0, 0, 1, 1)) if inclusive else joined


def _centres(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre x, centre y, width and height of boxes [..., 4]; width and height are at least 1e-3."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x1 + x2) * 0.5, (y1 + y2) * 0.5, (x2 - x1).clamp(min=1e-3), (y2 - y1).clamp(min=1e-3)
