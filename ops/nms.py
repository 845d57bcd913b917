"""Non-maximum suppression: of boxes that overlap much, only the box with the highest score is kept.

Boxes are visited in order of falling score. A box is removed if its IoU with a kept box is above the threshold. With
labels, only boxes of the same label are compared; no offset is added to coordinates, so suppression per label is as
exact as without labels.
Source: torchvision's convention (suppress where IoU > threshold, width = x2 - x1); Fast R-CNN's own counts x2 - x1 + 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from detector.ops._library import LIBRARY, NAMESPACE

# Boxes in a block of the PyTorch kernel: a block is compared with all kept boxes, then with itself.
BLOCK = 1024


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, *, max_output: int | None = None) -> Tensor:
    """Indices [K] int64 of the kept boxes, by falling score; equal scores are in the order of their index.

    Args:
        boxes: [N, 4] xyxy, continuous and half-open. IoU is computed in float32, in float64 for float64 boxes.
        scores: [N], of any floating dtype. A NaN counts as higher than every number.
        iou_threshold: 0 to 1; a box is removed if its IoU with a kept box is greater.
        max_output: stop after this many kept boxes; the result is the beginning of the full result and costs less.

    An empty or inverted box, or a box with a NaN, overlaps no other box, so it is kept.

    Raises:
        ValueError: a wrong shape, dtype, device or number.
    """
    _check("nms", boxes, scores, iou_threshold, max_output)
    kept: Tensor = _nms(boxes, scores, None, iou_threshold, max_output)
    return kept


def batched_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, *, max_output: int | None = None
) -> Tensor:
    """Indices [K] int64 of the kept boxes, by falling score over all labels; only boxes of one label are compared.

    Args:
        labels: [N] of an integer dtype: the class, the image, or both in one number; all values are allowed.

    `boxes`, `scores` and `iou_threshold` are as in `nms`; `max_output` counts the boxes of all labels together.

    Raises:
        ValueError: a wrong shape, dtype, device or number.
    """
    _check("batched_nms", boxes, scores, iou_threshold, max_output)
    if labels.shape != scores.shape or labels.is_floating_point() or labels.device != boxes.device:
        raise ValueError(
            f"batched_nms: expected labels [{scores.shape[0]}] of an integer dtype on {boxes.device}, "
            f"got {labels.dtype} {list(labels.shape)} on {labels.device}; give one label per box"
        )
    kept: Tensor = _nms(boxes, scores, labels.to(torch.int64), iou_threshold, max_output)
    return kept


def _check(op: str, boxes: Tensor, scores: Tensor, iou_threshold: float, max_output: int | None) -> None:
    if boxes.dim() != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise ValueError(
            f"{op}: expected boxes [N, 4] (x1, y1, x2, y2) of a floating dtype, "
            f"got {boxes.dtype} {list(boxes.shape)}; reshape or cast them"
        )
    if scores.dim() != 1 or scores.shape[0] != boxes.shape[0] or not scores.is_floating_point():
        raise ValueError(
            f"{op}: expected scores [{boxes.shape[0]}] of a floating dtype, one per box, "
            f"got {scores.dtype} {list(scores.shape)}; take one column of the class scores at a time"
        )
    if scores.device != boxes.device:
        raise ValueError(f"{op}: expected scores on the device of the boxes, {boxes.device}, got {scores.device}")
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"{op}: expected iou_threshold in 0..1, got {iou_threshold}; 0.3 to 0.7 is usual")
    if max_output is not None and max_output < 0:
        raise ValueError(f"{op}: expected max_output as None or a count, got {max_output}; None keeps all")


def _reference(
    boxes: Tensor, scores: Tensor, labels: Tensor | None, iou_threshold: float, max_output: int | None
) -> Tensor:
    """Greedy suppression in blocks of sorted boxes: memory is BLOCK x K, and there is no loop over single boxes."""
    order = scores.argsort(descending=True, stable=True)
    limit = len(order) if max_output is None else min(max_output, len(order))
    boxes = boxes if boxes.dtype == torch.float64 else boxes.to(torch.float32)
    threshold = _rounded_down(iou_threshold, boxes.dtype)
    kept, num_kept = [order[:0]], 0
    for block in order.split(BLOCK):
        if num_kept >= limit:
            break
        is_kept = torch.ones_like(block, dtype=torch.bool)
        for part in kept:
            is_kept &= ~_suppresses(boxes, labels, part, block, threshold).any(dim=0)
        block = block[is_kept]
        # Within the block, a box is kept if no kept box before it suppresses it. At first all boxes count as kept. Each
        # round finds the final state of at least one more box, from the front. A round without a change is the last.
        suppresses = _suppresses(boxes, labels, block, block, threshold).triu(diagonal=1)
        stays = torch.ones_like(block, dtype=torch.bool)
        while True:
            updated = ~(suppresses & stays[:, None]).any(dim=0)
            if torch.equal(updated, stays):
                break
            stays = updated
        kept.append(block[stays])
        num_kept += len(kept[-1])
    return torch.cat(kept)[:limit]


def _suppresses(boxes: Tensor, labels: Tensor | None, kept: Tensor, others: Tensor, threshold: float) -> Tensor:
    """Return whether each kept box suppresses each other box, [len(kept), len(others)] bool.

    Areas are not clamped: the area of an inverted box may be negative, but its intersection with any box is 0.
    """
    x1, y1, x2, y2 = boxes[kept, :, None].unbind(1)
    u1, v1, u2, v2 = boxes[others].unbind(1)
    width = (torch.minimum(x2, u2) - torch.maximum(x1, u1)).clamp_(min=0)
    intersection = width.mul_((torch.minimum(y2, v2) - torch.maximum(y1, v1)).clamp_(min=0))
    union = ((x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1)).sub_(intersection)
    over = intersection.div_(union) > threshold
    return over if labels is None else over & (labels[kept, None] == labels[others])


def _rounded_down(threshold: float, dtype: torch.dtype) -> float:
    """The largest number of the dtype up to `threshold`; a comparison with it equals a comparison in float64."""
    rounded = torch.tensor(threshold, dtype=dtype)
    if rounded.item() > threshold:
        rounded = torch.nextafter(rounded, torch.tensor(-math.inf, dtype=dtype))
    return rounded.item()


def _fake(boxes: Tensor, scores: Tensor, labels: Tensor | None, iou_threshold: float, max_output: int | None) -> Tensor:
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


LIBRARY.impl("nms", _reference, "CompositeExplicitAutograd")
torch.library.register_fake(f"{NAMESPACE}::nms", _fake, lib=LIBRARY)
_nms = torch.ops.fast_rfcn.nms.default
