"""The confusion matrix, compared with hand-computed values, and its sums on random tables."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from detector.metrics.confusion import confusion_matrix
from detector.metrics.tables import DetectionTable, TruthTable


def test_hand_computed_values() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [50, 0, 60, 10], [90, 0, 99, 9], [70, 0, 79, 9]])
    truths = TruthTable(
        ("1",), ("a", "b"), np.zeros(4, np.int64), boxes, np.array([1, 2, 2, 1]), np.array([False, False, False, True])
    )
    rows = [
        (boxes[0], 0.6, 1),  # correct
        (boxes[0], 0.9, 2),  # wrong class, on an object found by a detection of its class: background
        (boxes[1], 0.8, 1),  # object b, detected as a
        (boxes[1], 0.7, 1),  # a second time: background
        (boxes[2], 0.4, 2),  # below the threshold, so object 2 is missed
        (boxes[3], 0.9, 1),  # on a difficult object: not counted
    ]
    found, scores, labels = (np.array(column) for column in zip(*rows, strict=True))
    detections = DetectionTable(("1",), ("a", "b"), np.zeros(6, np.int64), found, scores, labels)
    assert confusion_matrix(detections, truths).tolist() == [[0, 1, 1], [0, 1, 0], [1, 1, 0]]


@given(seed=st.integers(0, 2**32 - 1))
def test_every_object_is_counted_once(
    make_tables: Callable[[int], tuple[DetectionTable, TruthTable]], seed: int
) -> None:
    detections, truths = make_tables(seed)
    counts = confusion_matrix(detections, truths, score_threshold=0.3)
    objects = np.bincount(truths.labels[~truths.difficult], minlength=len(truths.classes) + 1)
    assert counts[1:].sum(axis=1).tolist() == objects[1:].tolist()
    shown = np.bincount(detections.labels[detections.scores >= 0.3], minlength=len(truths.classes) + 1)
    assert (counts.sum(axis=0)[1:] <= shown[1:]).all()
    if not truths.difficult.any():
        assert counts.sum(axis=0)[1:].tolist() == shown[1:].tolist()
