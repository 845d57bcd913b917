"""Matching anchors with ground truth: tiles against the whole overlap matrix, ATSS against its algorithm in loops."""

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.ops import boxes as box_ops
from detector.proposals.matching import NEAREST, AdaptiveMatching, match_anchors


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 60), st.integers(0, 9), st.sampled_from([1, 1 << 11, 64 << 20]))
def test_tiles_give_the_result_of_the_whole_matrix(
    seed: int, num_anchors: int, num_truths: int, tile_bytes: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # A coarse grid of corners, so that ties are common.
    low = torch.randint(0, 5, (num_anchors + num_truths, 2), generator=generator) * 8.0
    boxes = torch.cat((low, low + 8.0 + 8.0 * torch.randint(0, 3, low.shape, generator=generator)), dim=1)
    anchors, truths = boxes[:num_anchors], boxes[num_anchors:]
    among = torch.rand(num_anchors, generator=generator) < 0.7
    whole = box_ops.iou(anchors, truths)
    saved, box_ops.TILE_BYTES = box_ops.TILE_BYTES, tile_bytes
    try:
        largest, index, is_best = match_anchors(anchors, truths, among)
    finally:
        box_ops.TILE_BYTES = saved
    expected = torch.zeros(num_anchors, dtype=torch.bool)
    for column in whole.T:
        best = column[among].max() if among.any() else 0.0
        if best > 0:
            expected |= among & (column == best)
    assert torch.equal(is_best, expected)
    if num_truths and num_anchors:
        assert torch.equal(largest, whole.max(dim=1).values)
        assert torch.equal(index, whole.argmax(dim=1))


def atss_in_loops(
    anchors: torch.Tensor, truths: torch.Tensor, inside: torch.Tensor, sizes: list[int], per_cell: int
) -> list[int]:
    """Algorithm 1 of ATSS, one box after the other: the index of the box of each anchor, -1 for background."""
    overlaps = box_ops.iou(anchors, truths)
    owner, largest = [-1] * len(anchors), [-1.0] * len(anchors)
    for number, (x1, y1, x2, y2) in enumerate(truths.tolist()):
        near: list[int] = []
        start = 0
        for size in sizes:
            among = [i for i in range(start, start + size) if inside[i]]
            centres = [((anchors[i, 0] + anchors[i, 2]) / 2, (anchors[i, 1] + anchors[i, 3]) / 2) for i in among]
            away = [math.dist(centre, ((x1 + x2) / 2, (y1 + y2) / 2)) for centre in centres]
            ranked = sorted(range(len(among)), key=lambda i, away=away: away[i])  # type: ignore[misc]
            near += [among[i] for i in ranked[: NEAREST * per_cell]]
            start += size
        found = overlaps[near, number]
        spread = found.std().item() if len(near) > 1 else 0.0
        for i in near:
            x, y = ((anchors[i, :2] + anchors[i, 2:]) / 2).tolist()
            overlap = overlaps[i, number].item()
            if x1 < x < x2 and y1 < y < y2 and overlap >= found.mean() + spread and overlap > largest[i]:
                owner[i], largest[i] = number, overlap
    best, is_best = match_anchors(anchors, truths, inside)[1:]
    return [box if box >= 0 else int(best[i]) if is_best[i] else -1 for i, box in enumerate(owner)]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6), st.lists(st.integers(0, 60), min_size=1, max_size=3), st.integers(1, 7), st.integers(1, 2)
)
def test_atss_follows_its_algorithm(seed: int, sizes: list[int], num_truths: int, per_cell: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    low = 100 * torch.rand(sum(sizes) + num_truths, 2, generator=generator, dtype=torch.float64)
    boxes = torch.cat((low, low + 5 + 60 * torch.rand(low.shape, generator=generator, dtype=torch.float64)), dim=1)
    anchors, truths = boxes[: sum(sizes)], boxes[sum(sizes) :]
    inside = torch.rand(sum(sizes), generator=generator) < 0.8
    expected = atss_in_loops(anchors, truths, inside, sizes, per_cell)
    for tile_bytes in (1, 64 << 20):
        saved, box_ops.TILE_BYTES = box_ops.TILE_BYTES, tile_bytes
        try:
            labels, index = AdaptiveMatching(per_cell)(anchors, truths, inside, sizes)
        finally:
            box_ops.TILE_BYTES = saved
        found = [int(box) if label == 1 else -1 for label, box in zip(labels, index, strict=True)]
        assert found == expected
        assert set(labels.tolist()) <= {0, 1}


def test_atss_sets_a_limit_for_each_box() -> None:
    """Nine cells with an anchor each: of a box between two cells both are objects, of a box on a cell only that."""
    x, y = torch.meshgrid(torch.arange(6) * 16.0 + 8, torch.arange(6) * 16.0 + 8, indexing="xy")
    centres = torch.stack((x, y), dim=2).reshape(-1, 2)
    anchors = torch.cat((centres - 16, centres + 16), dim=1)
    inside = torch.ones(36, dtype=torch.bool)
    truths = torch.tensor([[8.0, 8.0, 40.0, 40.0], [40.0, 56.0, 88.0, 88.0]])
    labels, index = AdaptiveMatching(1)(anchors, truths, inside, [36])
    assert labels.nonzero()[:, 0].tolist() == [7, 27, 28]
    assert index[[7, 27, 28]].tolist() == [0, 1, 1]


@pytest.mark.slow
def test_2000_boxes_with_250000_anchors_take_under_500_megabytes() -> None:
    """Measured in a new process: this process may reuse freed memory, so that its peak would not rise."""
    program = """
import resource, torch
from detector.proposals.anchors import anchor_grid, base_anchors
from detector.proposals.matching import match_anchors
torch.set_num_threads(1)
anchors = anchor_grid(base_anchors(16, (8.0, 16.0, 32.0), (0.5, 1.0, 2.0)), 160, 174, 16)
assert len(anchors) > 250_000
low = torch.rand(2000, 2) * 2000
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
match_anchors(anchors, torch.cat((low, low + 100), dim=1), torch.ones(len(anchors), dtype=torch.bool))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 500_000  # kilobytes
