"""Calibration, compared with hand-computed values."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from detector.metrics.calibration import calibrate
from detector.metrics.tables import DetectionTable, TruthTable

ZEROS, ONES = np.zeros(4, np.int64), np.ones(4, np.int64)
BOXES = np.array([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]])
DETECTIONS = DetectionTable(("1",), ("a",), ZEROS, BOXES, np.array([1.0, 0.95, 0.31, 0.0]), ONES)
TRUTHS = TruthTable(("1",), ("a",), ZEROS[:2], BOXES[[0, 2]], ONES[:2], np.array([False, False]))


def test_hand_computed_values() -> None:
    result = calibrate(DETECTIONS, TRUTHS)
    assert result.count.tolist() == [1, 0, 0, 1, 0, 0, 0, 0, 0, 2]
    assert result.precision[[0, 3, 9]] == pytest.approx([0, 1, 0.5])
    assert result.score[[0, 3, 9]] == pytest.approx([0, 0.31, 0.975])
    assert np.isnan(result.precision[1])
    assert result.error == pytest.approx((0 + 0.69 + 2 * 0.475) / 4)


def test_detections_on_difficult_objects_do_not_count() -> None:
    result = calibrate(DETECTIONS, dataclasses.replace(TRUTHS, difficult=np.array([True, False])))
    assert result.count.sum() == 3


def test_no_detection_gives_no_error_and_a_logit_is_refused() -> None:
    assert calibrate(DETECTIONS.select(ZEROS[:0]), TRUTHS).error is None
    with pytest.raises(ValueError, match=r"expected scores in \[0, 1\], detection 1 has 3.5"):
        calibrate(dataclasses.replace(DETECTIONS, scores=np.array([1.0, 3.5, 0, 0])), TRUTHS)
