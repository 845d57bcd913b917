"""COCO's twelve numbers: equal to those of pycocotools on COCO's files, and the same from both packages."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detector.metrics import coco
from detector.metrics.result_files import read_voc_results, write_coco_results
from detector.metrics.tables import DetectionTable, TruthTable

BACKENDS_AGREE = 1e-9  # the same sums in another order
needs_faster = pytest.mark.skipif(
    importlib.util.find_spec("faster_coco_eval") is None, reason="faster-coco-eval is not installed (extra `coco`)"
)
TableMaker = Callable[[int], tuple[DetectionTable, TruthTable]]


def large_tables(seed: int) -> tuple[DetectionTable, TruthTable]:
    """Return boxes of every area range, crowds, and objects whose stated area is not their box's area."""
    rng = np.random.default_rng(seed)
    classes = ("a", "b", "c")
    image_ids = tuple(str(number) for number in range(1, 21))
    corner, size = rng.random((120, 2)) * 300, np.exp(rng.uniform(2, 5.5, (120, 2)))
    images, labels, boxes = (
        rng.integers(0, 20, 120),
        rng.integers(1, 3, 120),
        np.concatenate((corner, corner + size), 1),
    )
    truths = TruthTable(
        image_ids, classes, images, boxes, labels, rng.random(120) < 0.2, areas=size.prod(1) * rng.uniform(0.4, 1, 120)
    )
    rows = rng.integers(0, 120, 900)
    moved = boxes[rows] + rng.normal(0, 0.08, (900, 4)) * np.tile(size[rows], 2)
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2])
    labels = np.where(rng.random(900) < 0.9, labels[rows], 3)
    return DetectionTable(image_ids, classes, images[rows], moved, rng.random(900).round(2), labels), truths


def by_pycocotools(detections: DetectionTable, truths: TruthTable, folder: Path) -> list[float]:
    """Return the twelve numbers of pycocotools, computed from files in COCO's format."""
    assert truths.areas is not None
    annotations = [
        {
            "id": row + 1,
            "image_id": int(truths.image_ids[truths.image_index[row]]),
            "category_id": int(truths.labels[row]) * 10,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": float(truths.areas[row]),
            "iscrowd": int(truths.difficult[row]),
        }
        for row, (x1, y1, x2, y2) in enumerate(truths.boxes.tolist())
    ]
    images = [{"id": int(image_id)} for image_id in truths.image_ids]
    categories = [{"id": (label + 1) * 10, "name": name} for label, name in enumerate(truths.classes)]
    dataset = {"info": {}, "images": images, "categories": categories, "annotations": annotations}
    (folder / "truth.json").write_text(json.dumps(dataset))
    write_coco_results(detections, folder / "results.json", {(k + 1) * 10: n for k, n in enumerate(truths.classes)})
    truth = COCO(str(folder / "truth.json"))
    evaluator = COCOeval(truth, truth.loadRes(str(folder / "results.json")), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return [float(value) for value in evaluator.stats]


@pytest.mark.parametrize("seed", range(3))
def test_the_numbers_equal_those_of_pycocotools_on_its_files(
    seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detections, truths = large_tables(seed)
    expected = by_pycocotools(detections, truths, tmp_path)
    capsys.readouterr()
    result = coco.evaluate(detections, truths, backend="pycocotools")
    assert list(result.statistics.values()) == pytest.approx(expected, abs=1e-12)
    assert capsys.readouterr() == ("", "")


@needs_faster
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("difficult", ["crowd", "object"])
def test_both_packages_agree(seed: int, difficult: str, capfd: pytest.CaptureFixture[str]) -> None:
    detections, truths = large_tables(seed)
    slow, fast = (
        coco.evaluate(detections, truths, backend=backend, difficult=difficult)  # type: ignore[arg-type]
        for backend in ("pycocotools", "faster-coco-eval")
    )
    assert fast.statistics == pytest.approx(slow.statistics, abs=BACKENDS_AGREE)
    assert fast.average_precision == pytest.approx(slow.average_precision, abs=BACKENDS_AGREE)
    assert capfd.readouterr() == ("", "")


def test_a_backend_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="faster-coco-eval is not installed: pip install"):
        coco.evaluate(*large_tables(0), backend="faster-coco-eval")
    assert coco.evaluate(*large_tables(0)).backend == "pycocotools"


@needs_faster
@pytest.mark.slow
def test_both_packages_agree_on_voc2007(voc2007_test: TruthTable, voc2007_results: Path) -> None:
    images, classes = voc2007_test.image_ids, voc2007_test.classes
    detections = read_voc_results(voc2007_results / "tinyyolo_caffe", images, classes)
    slow = coco.evaluate(detections, voc2007_test, backend="pycocotools")
    fast = coco.evaluate(detections, voc2007_test, backend="faster-coco-eval")
    assert fast.statistics == pytest.approx(slow.statistics, abs=BACKENDS_AGREE)


def test_the_mean_over_classes_is_ap() -> None:
    result = coco.evaluate(*large_tables(5))
    assert result.average_precision["c"] is None  # no object
    values = [value for value in result.average_precision.values() if value is not None]
    assert result.statistics["AP"] == pytest.approx(np.mean(values))


def test_an_unsearched_class_is_left_out() -> None:
    detections, truths = large_tables(0)
    partial = dataclasses.replace(detections.select(detections.labels != 2), unsearched=("b",))
    result = coco.evaluate(partial, truths)
    assert list(result.average_precision) == ["a", "c"]
    assert result.statistics["AP"] == pytest.approx(result.average_precision["a"])


def test_perfect_detections_have_ap_1_and_none_have_ap_0() -> None:
    _, truths = large_tables(0)
    truths = dataclasses.replace(truths, difficult=np.zeros(len(truths), bool))
    perfect = DetectionTable(
        truths.image_ids, truths.classes, truths.image_index, truths.boxes, np.ones(len(truths)), truths.labels
    )
    assert coco.evaluate(perfect, truths).statistics["AP"] == pytest.approx(1.0)
    assert coco.evaluate(perfect.select(np.zeros(0, np.int64)), truths).statistics["AP"] == 0.0


def test_without_objects_every_number_is_none() -> None:
    detections, _ = large_tables(0)
    none = np.zeros(0, np.int64)
    empty = TruthTable(detections.image_ids, detections.classes, none, np.zeros((0, 4)), none, np.zeros(0, bool))
    result = coco.evaluate(detections, empty)
    assert set(result.statistics.values()) == {None}
    assert json.loads(json.dumps(result.to_json()))["coco"]["AP"] is None
    assert result.table().splitlines()[1].split() == ["AP", "none"]
