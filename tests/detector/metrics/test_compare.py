"""The paired bootstrap against evaluating each resampled data set, and the causes of differences of two protocols."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from detector.metrics import compare, voc
from detector.metrics.differences import compare_protocols
from detector.metrics.tables import DetectionTable, TruthTable

FLOAT32 = 1e-6  # the curves of resamples have single precision
TableMaker = Callable[[int], tuple[DetectionTable, TruthTable]]


def resampled(detections: DetectionTable, truths: TruthTable, images: np.ndarray) -> tuple[DetectionTable, TruthTable]:
    """Return the tables of a data set that holds the drawn images. Each draw has its own name."""
    names = tuple(f"{truths.image_ids[image]}-{place:03d}" for place, image in enumerate(images))
    rows = [np.flatnonzero(detections.image_index == image) for image in images]
    objects = [np.flatnonzero(truths.image_index == image) for image in images]
    taken, held = np.concatenate(rows), np.concatenate(objects)
    index = np.repeat(np.arange(len(images)), [len(part) for part in rows])
    where = np.repeat(np.arange(len(images)), [len(part) for part in objects])
    found = DetectionTable(
        names, truths.classes, index, detections.boxes[taken], detections.scores[taken], detections.labels[taken]
    )
    kept = TruthTable(names, truths.classes, where, truths.boxes[held], truths.labels[held], truths.difficult[held])
    return found, kept


@pytest.mark.parametrize("protocol", ["voc_area", "voc07_11point_exact", "voc_area_devkit"])
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_each_resample_has_the_score_of_its_images(make_tables: TableMaker, protocol: str, seed: int) -> None:
    detections, truths = make_tables(seed)
    assume(len(truths.image_ids) and (~truths.difficult).any())
    rng = np.random.default_rng(seed)
    detections = detections.select(np.unique(detections.scores, return_index=True)[1])  # keep one of equal scores
    other = detections.select(rng.random(len(detections)) < 0.5)
    result = compare.compare(other, detections, truths, protocol, num_resamples=5, seed=seed)
    draws = np.random.default_rng(seed).integers(0, len(truths.image_ids), (5, len(truths.image_ids)))
    for images, difference in zip(draws, result.differences, strict=True):
        means = []
        for table in (other, detections):
            scored = voc.evaluate(*resampled(table, truths, images), [protocol]).results[protocol]
            means.append(scored.mean or 0.0)
        assert difference == pytest.approx(means[1] - means[0], abs=FLOAT32)


def test_a_better_detector_is_significantly_better() -> None:
    rng = np.random.default_rng(0)
    count = 300
    corner = rng.random((count, 2)) * 100
    boxes = np.concatenate((corner, corner + 20), axis=1)
    images, labels = np.arange(count), rng.integers(1, 3, count)
    image_ids, classes = tuple(map(str, range(count))), ("a", "b")
    truths = TruthTable(image_ids, classes, images, boxes, labels, np.zeros(count, bool))
    scores = rng.random(count)
    good = DetectionTable(image_ids, classes, images, boxes, scores, labels)
    worse = good.select(rng.random(count) < 0.8)
    threads = torch.get_num_threads()
    result = compare.compare(worse, good, truths, num_resamples=400)
    assert torch.get_num_threads() == threads
    low, high = result.interval()
    assert 0 < low < result.mean_b - result.mean_a < high
    assert result.doubt == 0.0
    # Without false positives AP is the recall, and the bootstrap's deviation is binomial.
    expected = np.sqrt(0.8 * 0.2 / count)
    assert np.std(result.differences) == pytest.approx(expected, rel=0.2)
    assert compare.compare(good, good, truths, num_resamples=9).interval() == (0.0, 0.0)
    numbers = json.loads(json.dumps(result.to_json()))["compare"]
    assert (numbers["resamples"], len(numbers["AP"])) == (400, 2)
    assert result.table().splitlines()[-1].startswith("95% of 400 resamples")


def test_nothing_to_compare_is_refused() -> None:
    none = np.zeros(0, np.int64)
    table = DetectionTable(("1",), ("a",), none, np.zeros((0, 4)), np.zeros(0), none)
    truths = TruthTable(("1",), ("a",), none, np.zeros((0, 4)), none, np.zeros(0, bool))
    with pytest.raises(ValueError, match="expected a class with objects that both detectors searched for"):
        compare.compare(table, table, truths)


def test_the_causes_of_differences_of_two_protocols_are_named() -> None:
    boxes = np.array([[20.0 * k, 0, 20.0 * k + 10, 10] for k in range(10)])
    zeros, ones = np.zeros(10, np.int64), np.ones(10, np.int64)
    truths = TruthTable(("1",), ("a",), zeros, boxes, ones, np.zeros(10, bool))
    found = DetectionTable(("1",), ("a",), zeros[:3], boxes[:3], np.array([0.7, 0.8, 0.9]), ones[:3])
    part = compare_protocols(found, truths, ("voc07_11point", "voc07_11point_exact"))
    assert part.average_precision == {"a": (pytest.approx(3 / 11), pytest.approx(4 / 11))}
    assert [(p.name, p.recall, p.detection) for p in part.turning_points] == [("a", 0.3, 0)]
    assert len(part.detections) == 0
    assert "a: detection 0 reaches recall 0.3 exactly" in part.table()

    half = DetectionTable(("1",), ("a",), zeros[:1], np.array([[20.0, 0, 30, 5]]), np.array([0.5]), ones[:1])
    part = compare_protocols(half, truths, ("voc_area", "voc_area_devkit"))
    assert (part.detections.tolist(), part.objects.tolist()) == ([0], [1])
    assert part.table().splitlines()[-1] == "1 detections on 1 objects judged differently"
