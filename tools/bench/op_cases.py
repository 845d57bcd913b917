"""The cases in which operators are compared with torchvision's: one table for `make bench` and for the tests.

RoIs are as in detectors: areas log-uniform from 16 x 16 to 500 x 500 pixels, sides 1:3 to 3:1, inside an image of
600 x 1000. Maps have stride 16. `Case.prepare` makes the inputs, so that only one case has inputs in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor

from detector import ops

HEIGHT, WIDTH = 600, 1000
SCALE = 1 / 16
BINS = 7
TRAINING = (2, 512, 38, 63)
INFERENCE = (1, 512, 38, 63)
SCORES = (1, 21 * BINS * BINS, 38, 63)
BOXES = (1, 8 * BINS * BINS, 38, 63)
SEED = 0


class Agreement(Enum):
    """How closely our result must match torchvision's."""

    exact = "equal"
    rounding = "equal up to the order of sums"
    none = "another rule: only the time is compared"


@dataclass(frozen=True, slots=True)
class Work:
    """The two contestants of a case, with their inputs."""

    ours: Callable[[], Any]
    peer: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the benchmark."""

    name: str
    size: str
    prepare: Callable[[torch.device], Work]
    agreement: Agreement
    headline: bool = True  # counts for the geometric mean: contiguous float32, for which torchvision is optimized
    capturable: bool = True  # can become a CUDA graph: the size of its result does not depend on values


def realistic_boxes(count: int, generator: torch.Generator) -> Tensor:
    """Boxes [count, 4] xyxy in pixels."""
    area = torch.exp(torch.empty(count).uniform_(math.log(16**2), math.log(500**2), generator=generator))
    aspect = torch.exp(torch.empty(count).uniform_(-math.log(3), math.log(3), generator=generator))
    size = torch.stack(((area * aspect).sqrt().clamp(max=WIDTH), (area / aspect).sqrt().clamp(max=HEIGHT)), dim=1)
    corner = torch.rand(count, 2, generator=generator) * (torch.tensor((WIDTH, HEIGHT)) - size)
    return torch.cat((corner, corner + size), dim=1)


def realistic_rois(count: int, num_images: int, generator: torch.Generator) -> Tensor:
    """RoIs [count, 5], spread over the images at random."""
    images = torch.randint(num_images, (count, 1), generator=generator)
    return torch.cat((images, realistic_boxes(count, generator)), dim=1)


def _pooling(
    op: str,
    ours: Callable[[Tensor, Tensor], Tensor],
    peer: Callable[[Tensor, Tensor], Tensor],
    shape: tuple[int, int, int, int],
    num_rois: int,
    agreement: Agreement,
    *,
    backward: bool = False,
    training: bool = False,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
) -> Case:
    def prepare(device: torch.device) -> Work:
        generator = torch.Generator().manual_seed(SEED)
        maps = torch.randn(shape, generator=generator).to(device, dtype)
        maps = maps.to(memory_format=torch.channels_last) if channels_last else maps
        theirs = _in_float32(peer) if dtype == torch.bfloat16 else peer
        rois = realistic_rois(num_rois, shape[0], generator).to(device)
        if backward:
            return Work(_gradient(ours, maps, rois), _gradient(theirs, maps, rois))
        return Work(_forward(ours, maps, rois, training), _forward(theirs, maps, rois, training))

    half, last = dtype != torch.float32, channels_last
    notes = [backward * "backward", half * str(dtype).removeprefix("torch."), last * "channels-last"]
    size = f"{list(shape)}, {num_rois} RoIs, {BINS}x{BINS}"
    return Case(" ".join([op, *filter(None, notes)]), size, prepare, agreement, headline=not (half or last))


def _forward(op: Callable[[Tensor, Tensor], Tensor], maps: Tensor, rois: Tensor, training: bool) -> Callable[[], Any]:
    maps = maps.detach().requires_grad_(training)

    def run() -> Tensor:
        with torch.set_grad_enabled(training):
            return op(maps, rois)

    return run


def _gradient(op: Callable[[Tensor, Tensor], Tensor], maps: Tensor, rois: Tensor) -> Callable[[], Any]:
    maps = maps.detach().requires_grad_()
    pooled = op(maps, rois)
    grad = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(SEED)).to(pooled)
    return lambda: torch.autograd.grad(pooled, maps, grad, retain_graph=True)[0]


def _in_float32(op: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Run `op` in float32 for bfloat16 maps, as users must: torchvision's operators do not support bfloat16."""
    return lambda maps, rois: op(maps.float(), rois).to(maps.dtype)


def _suppression(count: int, max_output: int | None) -> Case:
    def prepare(device: torch.device) -> Work:
        generator = torch.Generator().manual_seed(SEED)
        boxes = realistic_boxes(count, generator).to(device)
        scores = (torch.randperm(count, generator=generator) / count).to(device)
        return Work(
            lambda: ops.nms(boxes, scores, 0.7, max_output=max_output),
            lambda: torchvision.ops.nms(boxes, scores, 0.7)[:max_output],
        )

    name = "nms" if max_output is None else f"nms, best {max_output}"
    return Case(name, f"{count} boxes, IoU 0.7", prepare, Agreement.exact, capturable=False)


def _batched_suppression(count: int, num_classes: int) -> Case:
    def prepare(device: torch.device) -> Work:
        generator = torch.Generator().manual_seed(SEED)
        boxes = realistic_boxes(count, generator).repeat_interleave(num_classes, dim=0)
        side = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        boxes = (boxes + 0.1 * side * torch.randn(boxes.shape, generator=generator)).to(device)  # each class regresses
        labels = torch.arange(count * num_classes, device=device) % num_classes
        scores = (torch.randperm(len(boxes), generator=generator) / len(boxes)).to(device)
        return Work(
            lambda: ops.batched_nms(boxes, scores, labels, 0.3),
            lambda: torchvision.ops.batched_nms(boxes, scores, labels, 0.3),
        )

    return Case(
        "batched_nms", f"{count} boxes x {num_classes} classes, IoU 0.3", prepare, Agreement.exact, capturable=False
    )


def _cases() -> list[Case]:
    tv = torchvision.ops
    fixed: dict[str, Any] = {"output_size": BINS, "spatial_scale": SCALE}
    sampled = {**fixed, "sampling_ratio": 2}
    roi_pool = partial(_pooling, "roi_pool", partial(ops.roi_pool, **fixed), partial(tv.roi_pool, **fixed))
    align_peer = partial(tv.roi_align, **sampled, aligned=True)
    roi_align = partial(_pooling, "roi_align", partial(ops.roi_align, **sampled), align_peer)
    ps_pool_peer = partial(tv.ps_roi_pool, **fixed)
    ps_pool = partial(_pooling, "ps_roi_pool", partial(ops.ps_roi_pool, **fixed), ps_pool_peer)

    def vote_peer(maps: Tensor, rois: Tensor) -> Tensor:
        votes: Tensor = ps_pool_peer(maps, rois).mean(dim=(2, 3))
        return votes

    vote = partial(_pooling, "ps_roi_vote", partial(ops.ps_roi_vote, **fixed), vote_peer)
    ps_align_peer = partial(tv.ps_roi_align, **sampled)
    ps_align = partial(_pooling, "ps_roi_align", partial(ops.ps_roi_align, **sampled), ps_align_peer)

    exact, rounding, none = Agreement.exact, Agreement.rounding, Agreement.none
    cases = [
        roi_pool(TRAINING, 128, exact, training=True),
        roi_pool(TRAINING, 128, rounding, backward=True),
        roi_pool(INFERENCE, 2000, exact),
        roi_align(TRAINING, 128, rounding),
        roi_align(TRAINING, 128, rounding, backward=True),
        roi_align(INFERENCE, 2000, rounding),
    ]
    for shape in (SCORES, BOXES):
        for num_rois in (300, 2000):
            cases += [make(shape, num_rois, none, backward=back) for make in (ps_pool, vote) for back in (False, True)]
            cases += [ps_align(shape, num_rois, rounding, backward=back) for back in (False, True)]
    cases += [_suppression(count, None) for count in (2000, 6000, 12000)]
    cases += [_suppression(12000, best) for best in (2000, 300)]
    cases.append(_batched_suppression(300, 20))

    for layout in ({"dtype": torch.bfloat16}, {"channels_last": True}):
        cases += [make(TRAINING, 128, agree, **layout) for make, agree in ((roi_pool, exact), (roi_align, rounding))]
        cases += [make(SCORES, 300, agree, **layout) for make, agree in ((vote, none), (ps_align, rounding))]
    return cases


CASES = tuple(_cases())
