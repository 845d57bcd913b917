"""Tables: made from structures and annotations, aligned by name, with one clear error for each fault."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from detector.metrics.tables import DetectionTable, TruthTable
from detector.structures import Detections

GOOD: dict[str, Any] = {
    "image_ids": ("1", "2"),
    "classes": ("a", "b"),
    "image_index": np.array([0, 1]),
    "boxes": np.array([[0.0, 0, 1, 1], [2, 2, 3, 3]]),
    "scores": np.array([0.1, 0.2]),
    "labels": np.array([1, 2]),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_index": np.array([0, 2])}, "detection 1: unknown image number 2, the table lists 2,"),
        ({"scores": np.array([0.1, np.nan])}, "detection 1, image 2: the score is NaN"),
        ({"boxes": np.array([[0.0, 0, 1, 1], [2, 2, 1, 3]])}, "detection 1, image 2: the box .* is inverted"),
        ({"boxes": np.array([[0.0, 0, 1, 1], [2, 2, np.inf, 3]])}, "detection 1, image 2: the box .* is not finite"),
        ({"labels": np.array([1, 3])}, "detection 1, image 2: label 3 has no class, expected 1..2"),
        ({"labels": np.array([0, 1])}, "detection 0, image 1: label 0 has no class"),
        ({"image_ids": ("1", "1")}, "expected every image once, got 1 2 times"),
        ({"classes": ("a", "a")}, "expected every class once, got a 2 times"),
        ({"scores": np.array([0.1])}, "expected 2 detections in every column"),
        ({"unsearched": ("c",)}, "unsearched classes .*c.* are not among the classes"),
    ],
)
def test_a_fault_is_one_clear_error(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DetectionTable(**GOOD | change)


def test_ground_truth_is_also_checked() -> None:
    good = {key: value for key, value in GOOD.items() if key != "scores"} | {"difficult": np.zeros(2, bool)}
    TruthTable(**good)
    with pytest.raises(ValueError, match="object 1, image 2: label 3 has no class"):
        TruthTable(**good | {"labels": np.array([1, 3])})
    with pytest.raises(ValueError, match="expected 2 objects in every column"):
        TruthTable(**good | {"truncated": np.zeros(3, bool)})
    with pytest.raises(ValueError, match="expected sizes of 2 images"):
        TruthTable(**good | {"sizes": np.zeros((3, 2), np.int64)})


def test_a_table_is_made_from_detections() -> None:
    first = Detections(torch.tensor([[0.0, 1, 2, 3]]), torch.tensor([0.5]), torch.tensor([2]))
    empty = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    table = DetectionTable.from_detections([empty, first], ["x", "y"], ["a", "b"])
    assert (table.image_index.tolist(), table.labels.tolist(), table.boxes.dtype) == ([1], [2], np.float64)
    assert len(DetectionTable.from_detections([], [], ["a"])) == 0
    with pytest.raises(ValueError, match="expected detections of 1 images, got 2"):
        DetectionTable.from_detections([empty, first], ["x"], ["a", "b"])


def test_a_table_is_made_from_annotations() -> None:
    flags = torch.tensor([True, False])
    full = SimpleNamespace(
        image_id="x",
        width=30,
        height=20,
        boxes=torch.tensor([[0.0, 0, 5, 5], [1, 1, 2, 2]]),
        labels=torch.tensor([1, 2]),
        difficult=flags,
        truncated=~flags,
        occluded=flags,
    )
    nothing = torch.zeros(0, dtype=torch.bool)
    empty = SimpleNamespace(
        image_id="y",
        width=7,
        height=8,
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        difficult=nothing,
        truncated=nothing,
        occluded=nothing,
    )
    table = TruthTable.from_annotations([empty, full], ["a", "b"])
    assert (table.image_ids, table.image_index.tolist(), table.difficult.tolist()) == (
        ("y", "x"),
        [1, 1],
        [True, False],
    )
    assert table.sizes is not None
    assert table.sizes.tolist() == [[7, 8], [30, 20]]
    assert table.areas is None
    full.areas = torch.tensor([3.0, 1.0])
    areas = TruthTable.from_annotations([full], ["a", "b"]).areas
    assert areas is not None
    assert areas.tolist() == [3.0, 1.0]
    assert len(TruthTable.from_annotations([], ["a"])) == 0


def test_tables_are_aligned_by_name() -> None:
    truths = TruthTable(
        ("2", "1"), ("b", "a"), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool)
    )
    table = DetectionTable(**GOOD).aligned(truths)
    assert (table.image_index.tolist(), table.labels.tolist()) == ([1, 0], [2, 1])
    for change, message in (
        ({"image_ids": ("2", "3")}, "unknown image 1"),
        ({"image_ids": ("2", "1", "3")}, "missing image 3"),
        ({"classes": ("a",)}, "unknown class b"),
        ({"classes": ("a", "b", "c")}, "missing class c"),
    ):
        with pytest.raises(ValueError, match=message):
            DetectionTable(**GOOD).aligned(dataclasses.replace(truths, **change))


def test_join_requires_distinct_images_and_the_same_classes() -> None:
    table = DetectionTable(**GOOD)
    other = dataclasses.replace(table, image_ids=("3", "4"))
    joined = DetectionTable.join([table, other])
    assert (joined.image_ids, joined.image_index.tolist()) == (("1", "2", "3", "4"), [0, 1, 2, 3])
    with pytest.raises(ValueError, match="expected every image once, got 1 2 times"):
        DetectionTable.join([table, table])
    with pytest.raises(ValueError, match="expected tables of the same classes"):
        DetectionTable.join([table, dataclasses.replace(other, classes=("b", "a"))])
