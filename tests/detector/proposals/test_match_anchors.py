"""Matching anchors with ground truth in tiles, against the whole overlap matrix."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.ops import boxes as box_ops
from detector.proposals.rpn import match_anchors


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


@pytest.mark.slow
def test_2000_boxes_with_250000_anchors_take_under_500_megabytes() -> None:
    """Measured in a new process: this process may reuse freed memory, so that its peak would not rise."""
    program = """
import resource, torch
from detector.proposals.anchors import anchor_grid, base_anchors
from detector.proposals.rpn import match_anchors
torch.set_num_threads(1)
anchors = anchor_grid(base_anchors(16, (8.0, 16.0, 32.0), (0.5, 1.0, 2.0)), 160, 174, (16, 16))
assert len(anchors) > 250_000
low = torch.rand(2000, 2) * 2000
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
match_anchors(anchors, torch.cat((low, low + 100), dim=1), torch.ones(len(anchors), dtype=torch.bool))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 500_000  # kilobytes
