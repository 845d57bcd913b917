"""VOC's AP against the original script's numbers, against a literal loop, and by its properties."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.metrics import voc
from detector.metrics.matching import matches, ranking
from detector.metrics.result_files import read_voc_results
from detector.metrics.tables import DetectionTable, TruthTable

REFERENCE_TOLERANCE = 5e-6  # the order of equal scores is undefined in the original script
ALL = tuple(voc.PROTOCOLS)
SEEDS = st.integers(0, 2**32 - 1)
TableMaker = Callable[[int], tuple[DetectionTable, TruthTable]]


@pytest.mark.parametrize("name", ["tinyyolo_caffe", "yolo2_root19"])
def test_ap_equals_the_original_script_on_voc2007(
    name: str, shared: Path, voc2007_test: TruthTable, voc2007_results: Path
) -> None:
    reference = json.loads((shared / "voc2007_detections" / "reference_ap.json").read_text())[name]
    reference = {key: value for key, value in reference.items() if isinstance(value, dict)}
    detections = read_voc_results(voc2007_results / name, voc2007_test.image_ids, voc2007_test.classes)
    result = voc.evaluate(detections, voc2007_test)
    for protocol, key in (("voc07_11point", "ap07"), ("voc_area", "area")):
        found = result.results[protocol].average_precision
        assert found == pytest.approx({c: v[key] for c, v in reference.items()}, rel=0, abs=REFERENCE_TOLERANCE)
    assert result.coverage == ("20 classes" if name == "tinyyolo_caffe" else "19 of 20 classes")
    assert result.unsearched == (() if name == "tinyyolo_caffe" else ("person",))


def one_image(boxes: list[list[float]], scores: list[float]) -> DetectionTable:
    count = len(scores)
    zeros, ones = np.zeros(count, np.int64), np.ones(count, np.int64)
    return DetectionTable(("1",), ("a",), zeros, np.array(boxes, float).reshape(-1, 4), np.array(scores), ones)


def objects(boxes: list[list[float]], difficult: list[bool]) -> TruthTable:
    count = len(boxes)
    zeros, ones = np.zeros(count, np.int64), np.ones(count, np.int64)
    return TruthTable(("1",), ("a",), zeros, np.array(boxes, float).reshape(-1, 4), ones, np.array(difficult, bool))


def ap(detections: DetectionTable, truths: TruthTable, protocol: str) -> float:
    return voc.evaluate(detections, truths, [protocol]).results[protocol].average_precision["a"]


def test_a_recall_of_0_3_is_below_the_original_threshold() -> None:
    boxes = [[20.0 * k, 0, 20.0 * k + 10, 10] for k in range(10)]
    found = one_image(boxes[:3], [0.9, 0.8, 0.7])
    truths = objects(boxes, [False] * 10)
    assert ap(found, truths, "voc07_11point") == pytest.approx(3 / 11)
    assert ap(found, truths, "voc07_11point_exact") == pytest.approx(4 / 11)
    assert ap(found, truths, "voc_area") == pytest.approx(0.3)


def test_an_overlap_of_exactly_one_half_counts_only_in_the_devkit() -> None:
    found, truths = one_image([[0, 0, 10, 5]], [0.5]), objects([[0, 0, 10, 10]], [False])
    assert [ap(found, truths, name) for name in ALL] == pytest.approx([0, 0, 1, 0, 1])


def test_a_detection_matches_only_its_best_object() -> None:
    truths = objects([[0, 0, 10, 10], [0, 2, 10, 12]], [False, False])
    found = one_image([[0, 0, 10, 10], [0, 0.5, 10, 10.5]], [0.9, 0.8])  # the second overlaps both, the first more
    assert ap(found, truths, "voc_area") == pytest.approx(0.5)


def test_a_difficult_object_and_its_detections_do_not_count() -> None:
    truths = objects([[0, 0, 10, 10], [50, 0, 60, 10]], [True, False])
    found = one_image([[0, 0, 10, 10], [0, 0, 10, 10], [50, 0, 60, 10]], [0.9, 0.8, 0.7])
    assert ap(found, truths, "voc07_11point") == pytest.approx(1.0)


def test_classes_without_ground_truth_or_detections_are_named() -> None:
    classes = ("a", "b", "c", "d")
    none = np.zeros(0, np.int64)
    detections = DetectionTable(("1",), classes, none, np.zeros((0, 4)), np.zeros(0), none, unsearched=("d",))
    labels, difficult = np.array([1, 2, 4]), np.array([False, True, False])
    truths = TruthTable(("1",), classes, np.zeros(3, np.int64), np.array([[0.0, 0, 9, 9]] * 3), labels, difficult)
    result = voc.evaluate(detections, truths)
    assert (result.without_truth, result.unsearched, result.coverage) == (("b", "c"), ("d",), "1 of 4 classes")
    assert result.to_json()["voc_area"] == {
        "mAP": 0.0,
        "AP": {"a": 0.0},
        "classes": "1 of 4 classes",
        "without_ground_truth": ["b", "c"],
        "without_detections_file": ["d"],
    }
    assert json.loads(json.dumps(result.to_json())) == result.to_json()
    lines = result.table().splitlines()
    assert lines[0].split() == ["AP", "at", "IoU", "0.5", "voc07_11point", "voc_area"]
    assert lines[2:5] == [
        "b                       left out: no ground truth",
        "c                       left out: no ground truth",
        "d                       left out: no detections file",
    ]


def test_without_classes_the_mean_is_none() -> None:
    result = voc.evaluate(one_image([], []), objects([], []))
    assert result.results["voc_area"].mean is None
    assert result.table().endswith("none")


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match="expected protocols among voc07_11point.*, got voc2007"):
        voc.evaluate(one_image([], []), objects([], []), ["voc2007"])


def literal_ap(detections: DetectionTable, truths: TruthTable, label: int) -> dict[str, float]:
    """Return the metric by its definition, one detection at a time, with exact arithmetic where needed."""
    count = sum(1 for row in range(len(truths)) if truths.labels[row] == label and not truths.difficult[row])
    scores: dict[str, float] = {}
    for name in ALL:
        right, wrong, taken, curve = 0, 0, set(), []
        for row in (row for row in ranking(detections).tolist() if detections.labels[row] == label):
            best, best_row = 0.0, -1
            for truth in range(len(truths)):
                same_image = truths.image_index[truth] == detections.image_index[row]
                if same_image and truths.labels[truth] == label:
                    value = box_iou(detections.boxes[row], truths.boxes[truth])
                    if value > best:
                        best, best_row = value, truth
            if best > 0.5 or (name.endswith("devkit") and best == 0.5):
                if truths.difficult[best_row]:
                    continue
                right, wrong = (right, wrong + 1) if best_row in taken else (right + 1, wrong)
                taken.add(best_row)
            else:
                wrong += 1
            curve.append((right, right / (right + wrong)))
        if "area" in name:
            levels = range(1, count + 1)
            scores[name] = sum(max((p for r, p in curve if r >= level), default=0.0) for level in levels) / count
            continue
        thresholds = [k * 0.1 for k in range(11)]
        if name.endswith("devkit"):
            thresholds = [k * 0.1 if k < 5 else 1.0 - (10 - k) * 0.1 for k in range(11)]
        reached = [
            [p for r, p in curve if (10 * r >= k * count if name.endswith("exact") else r / count >= threshold)]
            for k, threshold in enumerate(thresholds)
        ]
        scores[name] = sum(max(part, default=0.0) for part in reached) / 11
    return scores


def box_iou(box: np.ndarray, other: np.ndarray) -> float:
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    shared_area = max(width, 0.0) * max(height, 0.0)
    areas = (box[2] - box[0]) * (box[3] - box[1]) + (other[2] - other[0]) * (other[3] - other[1])
    return float(shared_area / (areas - shared_area))


@given(seed=SEEDS)
def test_ap_equals_a_literal_loop(make_tables: TableMaker, seed: int) -> None:
    detections, truths = make_tables(seed)
    result = voc.evaluate(detections, truths, ALL)
    for label, name in enumerate(truths.classes, 1):
        if name in result.without_truth:
            assert all(name not in part.average_precision for part in result.results.values())
        else:
            found = {key: part.average_precision[name] for key, part in result.results.items()}
            assert found == pytest.approx(literal_ap(detections, truths, label), abs=1e-12)


@given(seed=SEEDS)
def test_the_order_of_images_and_rows_is_irrelevant(make_tables: TableMaker, seed: int) -> None:
    detections, truths = make_tables(seed)
    rng = np.random.default_rng(seed)
    images, rows = rng.permutation(len(truths.image_ids)), rng.permutation(len(detections))
    moved = dataclasses.replace(
        detections.select(rows),
        image_ids=tuple(truths.image_ids[image] for image in images),
        image_index=np.argsort(images)[detections.image_index[rows]],
    )
    assert voc.evaluate(moved, truths, ALL).to_json() == voc.evaluate(detections, truths, ALL).to_json()


@given(seed=SEEDS)
def test_a_monotone_rescaling_of_scores_is_irrelevant(make_tables: TableMaker, seed: int) -> None:
    detections, truths = make_tables(seed)
    rescaled = dataclasses.replace(detections, scores=np.exp(3 * detections.scores) - 7)
    assert voc.evaluate(rescaled, truths, ALL).to_json() == voc.evaluate(detections, truths, ALL).to_json()


@settings(max_examples=40)  # each example evaluates once per false positive
@given(seed=SEEDS)
def test_removing_a_false_positive_never_lowers_ap(make_tables: TableMaker, seed: int) -> None:
    detections, truths = make_tables(seed)
    detections = detections.select(ranking(detections))
    overlap, truth = matches(detections, truths)
    right, _ = voc.right_and_counted(np.where(overlap > 0.5, truth, -1), truths.difficult)
    before = voc.evaluate(detections, truths).results
    for wrong in np.flatnonzero(~right):
        after = voc.evaluate(detections.select(np.arange(len(detections)) != wrong), truths).results
        for name, result in before.items():
            for key, value in result.average_precision.items():
                assert after[name].average_precision[key] >= value - 1e-12


@given(seed=SEEDS)
def test_joined_single_image_tables_equal_the_whole_table(make_tables: TableMaker, seed: int) -> None:
    detections, truths = make_tables(seed)
    parts = []
    for image, image_id in enumerate(truths.image_ids):
        part = detections.select(detections.image_index == image)
        parts.append(dataclasses.replace(part, image_ids=(image_id,), image_index=np.zeros_like(part.image_index)))
    joined = DetectionTable.join(parts)
    assert voc.evaluate(joined, truths, ALL).to_json() == voc.evaluate(detections, truths, ALL).to_json()


@given(seed=SEEDS)
def test_curves_are_monotone_and_values_are_in_range(make_tables: TableMaker, seed: int) -> None:
    detections, truths = make_tables(seed)
    for result in voc.evaluate(detections, truths, ALL).results.values():
        assert all(0.0 <= value <= 1.0 + 1e-12 and math.isfinite(value) for value in result.average_precision.values())
        for curve in result.curves.values():
            assert (np.diff(curve.recall) >= 0).all()
            assert (np.diff(curve.scores) <= 0).all()
            assert ((curve.precision >= 0) & (curve.precision <= 1)).all()
