"""The causes of errors: hand-made cases of each, and properties of random tables."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from detector.metrics import voc
from detector.metrics.errors import CAUSES, Outcome, split_errors
from detector.metrics.tables import DetectionTable, TruthTable

TableMaker = Callable[[int], tuple[DetectionTable, TruthTable]]
OBJECTS = [[0, 0, 10, 10], [100, 0, 110, 10], [200, 0, 210, 10], [300, 0, 310, 10], [400, 0, 410, 10]]


def truths_of(difficult: int = 4) -> TruthTable:
    """Return objects of class a, a, b, a, b. The last is difficult by default."""
    flags = np.arange(5) == difficult
    return TruthTable(
        ("1",), ("a", "b"), np.zeros(5, np.int64), np.array(OBJECTS, float), np.array([1, 1, 2, 1, 2]), flags
    )


def found(rows: list[tuple[list[float], float, int]]) -> DetectionTable:
    boxes, scores, labels = zip(*rows, strict=True)
    return DetectionTable(
        ("1",), ("a", "b"), np.zeros(len(rows), np.int64), np.array(boxes, float), np.array(scores), np.array(labels)
    )


ONE_OF_EACH = [
    ([0, 0, 10, 10], 0.9, 1, Outcome.right),
    ([0, 0, 10, 9], 0.8, 1, Outcome.duplicate),
    ([100, 0, 110, 3], 0.7, 1, Outcome.localisation),
    ([200, 0, 210, 10], 0.6, 1, Outcome.classification),
    ([200, 0, 210, 3], 0.5, 1, Outcome.both),
    ([50, 50, 60, 60], 0.4, 1, Outcome.background),
    ([400, 0, 410, 10], 0.3, 2, Outcome.ignored),
    ([400, 0, 410, 3], 0.2, 2, Outcome.background),  # near a difficult object, which does not count
]


def test_each_cause_is_found() -> None:
    split = split_errors(found([row[:3] for row in ONE_OF_EACH]), truths_of())
    assert [Outcome(outcome) for outcome in split.outcomes] == [row[3] for row in ONE_OF_EACH]
    assert split.objects.tolist() == [0, 0, 1, 2, 2, -1, 4, -1]
    assert split.missed.tolist() == [False, False, False, True, False]  # objects 1 and 2 belong to an error
    assert split.count["missed"] == 1
    assert (split.count["false positives"], split.count["false negatives"]) == (6, 3)


def test_delta_ap_equals_hand_computed_values() -> None:
    split = split_errors(found([row[:3] for row in ONE_OF_EACH]), truths_of())
    assert split.mean == pytest.approx((1 / 3 + 0) / 2)
    # Class a: 3 objects. The localisation error becomes right at rank 3, behind the duplicate.
    assert split.delta_ap["localisation"] == pytest.approx(((1 + 2 / 3) / 3 - 1 / 3) / 2)
    # The classification error becomes class b's first counted detection, and finds its only object.
    assert split.delta_ap["classification"] == pytest.approx((1 - 0) / 2)
    assert split.delta_ap["missed"] == pytest.approx((1 / 2 - 1 / 3) / 2)
    assert split.delta_ap["duplicate"] == split.delta_ap["both"] == split.delta_ap["background"] == 0.0
    assert split.delta_ap["false negatives"] == pytest.approx((1 - 1 / 3) / 2)  # class b has none left and stays at 0
    assert list(split.delta_ap) == [*CAUSES, "false positives", "false negatives"]


def test_an_object_is_corrected_once() -> None:
    rows = [([100, 0, 110, 3], score, 1) for score in (0.9, 0.8)]
    split = split_errors(found(rows), truths_of())
    assert split.delta_ap["localisation"] == pytest.approx(1 / 3 / 2)  # one right, the other taken out


def test_outcomes_follow_the_row_order_of_the_table() -> None:
    rows = [row[:3] for row in ONE_OF_EACH]
    split = split_errors(found(rows[::-1]), truths_of())
    assert [Outcome(outcome) for outcome in split.outcomes] == [row[3] for row in ONE_OF_EACH[::-1]]


def test_results_are_printed_and_written() -> None:
    split = split_errors(found([row[:3] for row in ONE_OF_EACH]), truths_of())
    numbers = json.loads(json.dumps(split.to_json()))["errors"]
    assert (numbers["protocol"], numbers["count"]["duplicate"]) == ("voc_area", 1)
    assert split.table().splitlines()[0].startswith("voc_area mAP 0.1667")


def test_a_table_without_objects_is_refused() -> None:
    none = np.zeros(0, np.int64)
    empty = TruthTable(("1",), ("a", "b"), none, np.zeros((0, 4)), none, np.zeros(0, bool))
    with pytest.raises(ValueError, match="expected at least one object that is not difficult"):
        split_errors(found([([0, 0, 1, 1], 0.5, 1)]), empty)


@pytest.mark.parametrize("protocol", ["voc_area", "voc07_11point", "voc_area_devkit"])
@given(seed=st.integers(0, 2**32 - 1))
def test_every_error_has_one_cause_and_correcting_it_never_lowers_ap(
    make_tables: TableMaker, protocol: str, seed: int
) -> None:
    detections, truths = make_tables(seed)
    assume((~truths.difficult).any())
    split = split_errors(detections, truths, protocol)
    assert split.mean == pytest.approx(voc.evaluate(detections, truths, [protocol]).results[protocol].mean)
    assert sum(split.count[cause] for cause in CAUSES[:-1]) == split.count["false positives"]
    kept = (split.outcomes != Outcome.ignored).sum()
    assert (split.outcomes == Outcome.right).sum() + split.count["false positives"] == kept
    assert split.count["missed"] <= split.count["false negatives"]
    for cause in (*CAUSES[:-1], "false positives"):
        assert split.delta_ap[cause] >= -1e-12, cause
