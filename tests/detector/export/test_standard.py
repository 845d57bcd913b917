"""Our operators, written with standard operators, against the originals, on RoIs of every kind."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from detector.export.standard import standard_operators
from detector.ops import deform_ps_roi_pool, nms, ps_roi_align, ps_roi_pool, ps_roi_vote, roi_align, roi_pool

OPS = torch.ops.fast_rfcn
SCALE = 1 / 16
LONGEST = 24
CASES = {
    "roi_pool": (partial(roi_pool, output_size=7), (7, 7, SCALE, "caffe", False)),
    "roi_pool 1x1": (partial(roi_pool, output_size=1), (1, 1, SCALE, "caffe", False)),
    "roi_align": (partial(roi_align, output_size=7, sampling_ratio=2), (7, 7, SCALE, 2, True, False)),
    "ps_roi_pool": (partial(ps_roi_pool, output_size=3), (3, SCALE)),
    "ps_roi_vote": (partial(ps_roi_vote, output_size=3), (3, SCALE)),
    "ps_roi_align": (partial(ps_roi_align, output_size=3, sampling_ratio=2), (3, SCALE, 2)),
    "ps_roi_pool_max": (partial(ps_roi_pool, output_size=3, reduction="max"), (3, SCALE, False)),
    "ps_roi_vote_max": (partial(ps_roi_vote, output_size=3, reduction="max"), (3, SCALE, False)),
}


def rois(kind: str) -> Tensor:
    """Return RoIs [R, 5] in and around a map of 14 x 20 cells."""
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(60, 4, generator=generator) * torch.tensor([420.0, 300.0, 420.0, 300.0]) - 50
    if kind == "halves":  # where rounding half to even would differ
        boxes = (boxes / 8).round() * 8 + torch.tensor([0.5, 0.5, -0.5, -0.5])
    if kind != "inverted":
        boxes = torch.cat((torch.minimum(boxes[:, :2], boxes[:, 2:]), torch.maximum(boxes[:, :2], boxes[:, 2:])), dim=1)
    return torch.cat((torch.zeros(len(boxes), 1), boxes), dim=1)[: 0 if kind == "none" else None]


@pytest.mark.parametrize("kind", ["any", "halves", "inverted", "none"])
@pytest.mark.parametrize("case", CASES)
def test_the_standard_form_equals_the_operator(case: str, kind: str) -> None:
    operator, arguments = CASES[case]
    maps = torch.randn(1, 18, 14, 20, generator=torch.Generator().manual_seed(1))
    name = case.split(" ", maxsplit=1)[0]
    form = standard_operators(LONGEST)[getattr(OPS, name).default]
    found = form(maps, rois(kind), *arguments)
    found = found[0] if isinstance(found, tuple) else found
    exact = name in {"roi_pool", "ps_roi_pool_max"}
    expected = operator(maps, rois(kind), spatial_scale=SCALE)
    torch.testing.assert_close(found, expected, rtol=0, atol=0 if exact else 3e-6)  # sums in another order


@pytest.mark.parametrize("kind", ["any", "halves", "inverted", "none"])
@pytest.mark.parametrize("groups", [None, 1, 2])
def test_the_standard_form_of_deformable_pooling_equals_the_operator(groups: int | None, kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    maps, boxes = torch.randn(1, 36, 14, 20, generator=generator), rois(kind)
    offsets = None if groups is None else torch.randn(len(boxes), 2 * groups, 3, 3, generator=generator)
    form = standard_operators(LONGEST)[OPS.deform_ps_roi_pool.default]
    found = form(maps, boxes, offsets, 3, SCALE, 0.1, 4)
    torch.testing.assert_close(found, deform_ps_roi_pool(maps, boxes, offsets, 3, SCALE), rtol=0, atol=3e-6)


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 2, 2), (2, 1, 1)])
def test_the_standard_form_of_deformable_convolution_equals_the_operator(
    stride: int, padding: int, dilation: int
) -> None:
    generator = torch.Generator().manual_seed(1)
    maps, weight = (torch.randn(*shape, generator=generator) for shape in ((1, 4, 13, 9), (6, 4, 3, 3)))
    rows, columns = (-(-size // stride) for size in (13, 9))
    offset = 4 * torch.randn(1, 18, rows, columns, generator=generator)  # also far outside the map
    offset[:, :, ::2] = offset[:, :, ::2].round()  # also at cells and exactly one cell outside
    arguments = (weight, offset, maps.new_ones(1, 0, 1, 1), torch.arange(6.0))
    numbers = (stride, stride, padding, padding, dilation, dilation)
    operator = torch.ops.torchvision.deform_conv2d.default
    form = standard_operators(LONGEST)[operator]
    found = form(maps, *arguments, *numbers, 1, 1, False)
    torch.testing.assert_close(found, operator(maps, *arguments, *numbers, 1, 1, False), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="without groups and masks"):
        form(maps, *arguments, *numbers, 2, 1, False)


def test_nms_without_labels_equals_the_operator() -> None:
    boxes = rois("any")[:, 1:]
    scores = torch.rand(len(boxes), generator=torch.Generator().manual_seed(2))
    form = standard_operators(LONGEST)[OPS.nms.default]
    assert torch.equal(form(boxes, scores, None, 0.4, 20), nms(boxes, scores, 0.4, max_output=20))
    with pytest.raises(ValueError, match="NMS per class"):
        form(boxes, scores, torch.zeros(len(boxes), dtype=torch.int64), 0.4)


def test_adaptive_sampling_is_refused() -> None:
    form = standard_operators(LONGEST)[OPS.roi_align.default]
    with pytest.raises(ValueError, match="sampling_ratio"):
        form(torch.zeros(1, 1, 4, 4), rois("any"), 7, 7, SCALE, 0, True, False)
