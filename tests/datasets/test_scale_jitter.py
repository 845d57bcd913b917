"""Large-scale jitter: an object appears at `factor` times its planned size, on an input of at most the planned size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detector.datasets.sample import Sample
from detector.datasets.scale_jitter import jittered, planned_size
from detector.preprocess import resized_size
from tests.datasets.painted import make_sample, samples, seeds

MAX_SIDE = 160


def input_size(sample: Sample) -> tuple[int, int]:
    """Return (width, height) of the network's input."""
    item = sample.annotation
    height, width = resized_size(item.height, item.width, sample.short_side, MAX_SIDE)
    return width, height


@given(st.integers(1, 900), st.integers(1, 900), st.integers(1, 900), st.integers(1, 900))
def test_the_planned_size_is_that_of_the_preprocessing(width: int, height: int, short: int, limit: int) -> None:
    height_there, width_there = resized_size(height, width, short, limit)
    planned = planned_size(width, height, short, limit)
    assert abs(planned[0] - width_there) <= 1, "both round, at most a half differently"
    assert abs(planned[1] - height_there) <= 1


@given(samples(), st.floats(0.1, 4), seeds)
def test_the_input_is_at_most_the_planned_size(sample: Sample, factor: float, seed: int) -> None:
    part = jittered(sample, factor, MAX_SIDE, np.random.default_rng(seed))
    for side, planned in zip(input_size(part), input_size(sample), strict=True):
        assert side <= planned
    if factor <= 1:
        assert torch.equal(part.annotation.boxes, sample.annotation.boxes)
        assert part.image is sample.image
    if len(sample.annotation.boxes):
        assert len(part.annotation.boxes), "an image with objects keeps one"


@pytest.mark.parametrize(("width", "height"), [(60, 50), (50, 60), (200, 40), (40, 200)])
@pytest.mark.parametrize("factor", [0.25, 0.5, 1.5, 2.0])
def test_an_object_has_factor_times_its_planned_size(width: int, height: int, factor: float) -> None:
    """(200, 40) is limited by the longer side: MAX_SIDE."""
    box = torch.tensor([[width / 2 - 2, height / 2 - 2, width / 2 + 2, height / 2 + 2]])
    sample = make_sample(width, height, box)
    part = jittered(sample, factor, MAX_SIDE, np.random.default_rng(0))
    planned, seen = (
        size * 4 / side
        for size, side in (
            (min(input_size(sample)), min(width, height)),
            (min(input_size(part)), min(part.annotation.width, part.annotation.height)),
        )
    )
    assert seen / planned == pytest.approx(factor, rel=0.03), "sides are whole pixels"
    if factor > 1:
        assert min(input_size(part)) == min(input_size(sample)), "the crop fills the planned size"
        assert max(input_size(part)) >= max(input_size(sample)) - 8


def test_a_factor_of_one_changes_nothing() -> None:
    sample = make_sample(60, 50, torch.tensor([[1.0, 2, 8, 9]]))
    part = jittered(sample, 1.0, MAX_SIDE, np.random.default_rng(0))
    assert part.image is sample.image
    assert input_size(part) == input_size(sample)
