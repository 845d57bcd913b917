"""AP for each kind of object, compared with hand-computed values."""

from __future__ import annotations

import numpy as np
import pytest

from detector.metrics.by_attribute import by_attribute
from detector.metrics.tables import DetectionTable, TruthTable

SMALL, LARGE, WIDE = [0.0, 0, 10, 10], [100.0, 0, 300, 200], [0.0, 500, 150, 550]
TRUTHS = TruthTable(
    ("1",),
    ("a",),
    np.zeros(3, np.int64),
    np.array([SMALL, LARGE, WIDE]),
    np.ones(3, np.int64),
    np.zeros(3, bool),
    truncated=np.array([True, False, False]),
)


def test_hand_computed_values() -> None:
    boxes = np.array(
        [[700.0, 0, 710, 10], SMALL, LARGE, [700.0, 0, 710, 15]]
    )  # the first and the last are small, on no object
    scores, labels = np.array([0.9, 0.8, 0.7, 0.6]), np.ones(4, np.int64)
    detections = DetectionTable(("1",), ("a",), np.zeros(4, np.int64), boxes, scores, labels)
    results = {(part.property, part.name): part for part in by_attribute(detections, TRUTHS)}
    assert {key: part.num_truths for key, part in results.items()} == {
        ("size", "small"): 1,
        ("size", "medium"): 1,
        ("size", "large"): 1,
        ("aspect", "tall"): 0,
        ("aspect", "square"): 2,
        ("aspect", "wide"): 1,
        ("truncated", "no"): 2,
        ("truncated", "yes"): 1,
    }
    assert results["size", "small"].mean == pytest.approx(0.5)  # ranked below a false positive of the same size
    assert results["size", "large"].mean == pytest.approx(1.0)  # false positives of other sizes do not count
    assert results["size", "medium"].mean == pytest.approx(0.0)  # missed
    assert results["aspect", "tall"].mean is None
    assert results["truncated", "yes"].average_precision == {"a": pytest.approx(0.5)}
    assert results["truncated", "no"].mean == pytest.approx(0.25)  # finds one of two, ranked below a false positive


def test_each_object_has_one_kind_of_each_property() -> None:
    empty = np.zeros(0, np.int64)
    nothing = DetectionTable(("1",), ("a",), empty, np.zeros((0, 4)), np.zeros(0), empty)
    for name in ("size", "aspect", "truncated"):
        assert sum(part.num_truths for part in by_attribute(nothing, TRUTHS) if part.property == name) == len(TRUTHS)
