"""`distinct_rois` against `roi_pool`: merged RoIs pool the same bits, and RoIs that pool other bits are not merged."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detector.ops import roi_pool
from detector.ops.distinct import distinct_rois
from detector.ops.roi_pool import QUANTIZATIONS

SCALE = 1 / 16


def crowded(count: int, seed: int, side: float = 200.0) -> Tensor:
    """Return RoIs of two images in, across and outside the map, around few corners, some inverted or not finite."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(-1, 2, (count, 4), generator=generator) * side / 2 + side / 3
    corners = corners + torch.rand(count, 4, generator=generator) * 12 - 6
    corners[::17, 1] = math.nan
    corners[::19, 2] = math.inf
    corners[::23, 0] = -3e38
    return torch.cat((torch.randint(2, (count, 1), generator=generator).float(), corners), dim=1)


def numbered(height: int, width: int) -> Tensor:
    """Return maps [2, 2, H, W] of distinct values. The maximum of a bin is its last cell, or its first."""
    cells = torch.arange(2.0 * height * width).view(2, 1, height, width) + 1
    return torch.cat((cells, -cells), dim=1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(QUANTIZATIONS), st.sampled_from([1, 3, 7]), st.booleans())
def test_pooling_the_distinct_rois_equals_pooling_all(seed: int, rule: str, size: int, double: bool) -> None:
    dtype = torch.float64 if double else torch.float32
    features, rois = numbered(13, 14).to(dtype), crowded(300, seed).to(dtype)
    kept, place = distinct_rois(features, rois, SCALE, quantization=rule)
    assert len(kept) < len(rois)
    once = roi_pool(features, rois[kept], size, SCALE, quantization=rule)[place]
    assert torch.equal(once, roi_pool(features, rois, size, SCALE, quantization=rule))


@pytest.mark.parametrize("rule", QUANTIZATIONS)
def test_of_rois_with_the_same_cells_the_first_is_kept(rule: str) -> None:
    rois = crowded(300, 1)
    kept, place = distinct_rois(numbered(13, 14), rois, SCALE, quantization=rule)
    assert (kept.diff() > 0).all()
    assert torch.equal(place[kept], torch.arange(len(kept)))
    assert (kept[place] <= torch.arange(len(rois))).all()


def test_exactly_the_rois_with_the_same_cells_are_merged() -> None:
    """Every pair of corners of a small map, and again moved by less than half a cell: one of each is kept."""
    corner = torch.cartesian_prod(*[torch.arange(6)] * 4)
    corner = corner[(corner[:, 0] <= corner[:, 2]) & (corner[:, 1] <= corner[:, 3])] * 16.0
    rois = torch.cat([torch.cat((torch.full_like(corner[:, :1], image), corner), dim=1) for image in (0.0, 1.0)])
    moved = rois + torch.rand(rois.shape, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.0, 7, 7, 7, 7])
    kept, place = distinct_rois(numbered(6, 6), torch.cat((rois, moved)), SCALE)
    assert torch.equal(kept, torch.arange(len(rois)))
    assert torch.equal(place, torch.arange(len(rois)).repeat(2))
    pooled = roi_pool(numbered(6, 6), rois, 1, SCALE).flatten(1)
    assert len(pooled.unique(dim=0)) == len(rois), "each pools different cells"


def test_halves_are_rounded_away_from_zero_as_in_roi_pool() -> None:
    rois = torch.tensor([[0.0, 8, 8, 40, 40], [0, 7.99, 8, 40, 40], [0, 16, 16, 48, 48], [0, -8, -8, 40, 40]])
    kept, place = distinct_rois(numbered(6, 6), rois, SCALE)
    assert kept.tolist() == [0, 1, 3]
    assert place.tolist() == [0, 1, 0, 2]


def test_no_rois_give_empty_results() -> None:
    kept, place = distinct_rois(numbered(3, 3), torch.zeros(0, 5), SCALE)
    assert kept.shape == place.shape == (0,)
    assert kept.dtype == place.dtype == torch.int64


def test_wrong_rois_are_refused() -> None:
    with pytest.raises(ValueError, match="distinct_rois: expected rois"):
        distinct_rois(numbered(3, 3), torch.zeros(2, 4), SCALE)
