"""Proposal recall: hand-computed values, and a literal pairing as reference."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detector.metrics import recall
from detector.metrics.tables import TruthTable


def truths_of(boxes: list[list[float]], labels: list[int], difficult: list[bool] | None = None) -> TruthTable:
    return TruthTable(
        image_ids=("1", "2"),
        classes=("a", "b", "c"),
        image_index=np.ones(len(boxes), np.int64),
        boxes=np.array(boxes, float).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        difficult=np.array(difficult or [False] * len(boxes), bool),
    )


def test_recall_equals_hand_computed_values() -> None:
    truths = truths_of([[0, 0, 10, 10], [20, 0, 30, 10], [50, 0, 60, 10]], [1, 2, 2], [False, False, True])
    proposals = torch.tensor([[90.0, 0, 99, 9], [0, 0, 10, 6], [20, 0, 30, 9.99]])
    result = recall.evaluate([torch.zeros(0, 4), proposals], truths, counts=(1, 2, 2000))
    assert [result.recall(0.5, count) for count in (1, 2, 2000)] == [0.0, 0.5, 1.0]
    assert (result.recall(0.7, 2000, "a"), result.recall(0.7, 2000, "b")) == (0.0, 1.0)
    assert result.average_recall(2000, "a") == pytest.approx(0.3)  # found at .5, .55 and .6
    assert result.average_recall(2000, "c") is None
    numbers = result.to_json()["proposal_recall"]["2000"]
    assert numbers["recall@0.5"] == 1.0
    assert json.loads(json.dumps(numbers)) == numbers
    assert result.table().splitlines()[3].split() == ["c"] + ["none"] * 9


def test_one_proposal_finds_one_object() -> None:
    truths = truths_of([[0, 0, 10, 10], [0, 0, 10, 9]], [1, 1])
    result = recall.evaluate([torch.zeros(0, 4), torch.tensor([[0.0, 0, 10, 10]])], truths)
    assert result.recall(0.5, 100) == 0.5


def test_every_image_needs_its_proposals() -> None:
    with pytest.raises(ValueError, match="expected proposals of 2 images, got 1"):
        recall.evaluate([torch.zeros(0, 4)], truths_of([], []))


@given(seed=st.integers(0, 2**32 - 1))
def test_the_closest_pairs_are_matched_first(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.random((rng.integers(0, 12), 2)) * 10
    proposals = torch.from_numpy(np.concatenate((corner, corner + 5), axis=1))
    corner = rng.random((rng.integers(0, 6), 2)) * 10
    boxes = np.concatenate((corner, corner + 5), axis=1)
    result = recall.evaluate([torch.zeros(0, 4), proposals], truths_of(boxes.tolist(), [1] * len(boxes)))

    def overlap(box: torch.Tensor, other: np.ndarray) -> float:
        sides = [max(0.0, min(box[k + 2], other[k + 2]) - max(box[k], other[k])) for k in (0, 1)]
        return float(sides[0] * sides[1] / (50 - sides[0] * sides[1]))

    pairs = sorted(((overlap(p, t), i, j) for i, p in enumerate(proposals) for j, t in enumerate(boxes)), reverse=True)
    expected, used = np.zeros(len(boxes)), set()
    for value, proposal, truth in pairs:
        if ("p", proposal) not in used and ("t", truth) not in used:
            expected[truth] = value
            used |= {("p", proposal), ("t", truth)}
    assert result.overlaps[0] == pytest.approx(expected)
