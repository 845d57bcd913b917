"""The exchange formats: written files read back, and each malformed file gives one error with its position."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.metrics.result_files import (
    read_coco_results,
    read_voc_results,
    write_coco_results,
    write_voc_results,
)
from detector.metrics.tables import DetectionTable, TruthTable

IMAGES, CLASSES = ("000001", "2008_000002"), ("cat", "dog")
CATEGORIES = {18: "dog", 17: "cat"}
GOOD = "000001 0.5 1 1 10 20\n"


def written(folder: Path, text: str) -> Path:
    (folder / "comp4_det_test_cat.txt").write_text(text)
    return folder


def test_a_voc_line_is_one_based_and_inclusive(tmp_path: Path) -> None:
    table = read_voc_results(written(tmp_path, GOOD + "2008_000002 1e-3 2.5 3 4 5.25\n"), IMAGES, CLASSES)
    assert table.boxes.tolist() == [[0, 0, 10, 20], [1.5, 2, 4, 5.25]]
    assert (table.scores.tolist(), table.labels.tolist()) == ([0.5, 0.001], [1, 1])
    assert (table.image_index.tolist(), table.unsearched) == ([0, 1], ("dog",))


def test_any_class_name_and_ids_with_blanks_are_written_and_read_back(tmp_path: Path) -> None:
    images, classes = ("photo (1)", " x y"[1:]), ("car/truck", "../up", "Käfer")
    table = DetectionTable(
        image_ids=images,
        classes=classes,
        image_index=np.array([0, 1, 1]),
        boxes=np.array([[0.0, 0, 4, 5], [1, 2, 3, 4], [2, 2, 8, 9]]),
        scores=np.array([0.5, 0.25, 0.75]),
        labels=np.array([1, 2, 3]),
    )
    write_voc_results(table, tmp_path / "out")
    names = {"comp4_det_test_car%2Ftruck.txt", "comp4_det_test_..%2Fup.txt", "comp4_det_test_Käfer.txt"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == names
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]
    again = read_voc_results(tmp_path / "out", images, classes)
    assert (again.image_index.tolist(), again.labels.tolist()) == ([0, 1, 1], [1, 2, 3])
    assert again.boxes.tolist() == table.boxes.tolist()


@pytest.mark.parametrize("text", ["", "\n", GOOD.rstrip()])
def test_an_empty_file_and_a_missing_last_newline_are_accepted(tmp_path: Path, text: str) -> None:
    assert len(read_voc_results(written(tmp_path, text), IMAGES, CLASSES)) == text.count("0.5")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("000001 0.5 1 1 10", "got `000001 0.5 1 1 10`"),
        ("000001 0.5 1 1 10 20 3", "expected `image score x1 y1 x2 y2`"),
        ("000001 0.5 1 one 10 20", "got `000001 0.5 1 one 10 20`"),
        ("000001 nan 1 1 10 20", "got `000001 nan"),
        ("000001 0.5 1 1 inf 20", "got `000001 0.5 1 1 inf"),
        ("000009 0.5 1 1 10 20", "unknown image 000009, not among the 2 images of the split"),
        ("", "empty line"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    written(tmp_path, GOOD + line + "\n" + GOOD)
    with pytest.raises(ValueError, match=f"comp4_det_test_cat.txt, line 2: .*{message}"):
        read_voc_results(tmp_path, IMAGES, CLASSES)


def test_a_folder_without_result_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected result files such as .*comp4_det_test_cat.txt"):
        read_voc_results(tmp_path, IMAGES, CLASSES)


def test_an_inverted_box_is_kept_as_an_empty_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        table = read_voc_results(written(tmp_path, GOOD + "000001 0.5 10 1 5 20\n"), IMAGES, CLASSES)
    assert table.boxes[1].tolist() == [9, 0, 9, 20]
    assert "1 boxes have x2 < x1 or y2 < y1" in caplog.text


@given(seed=st.integers(0, 2**32 - 1))
def test_voc_files_read_back(
    make_tables: Callable[[int], tuple[DetectionTable, TruthTable]],
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
) -> None:
    table, _ = make_tables(seed)
    folder = tmp_path_factory.mktemp("results")
    write_voc_results(table, folder)
    again = read_voc_results(folder, table.image_ids, table.classes)
    order = np.argsort(table.labels, kind="stable")
    assert np.array_equal(again.boxes, table.boxes[order])
    assert np.array_equal(again.scores, table.scores[order])
    assert np.array_equal(again.image_index, table.image_index[order])
    assert again.unsearched == ()


def test_coco_results_read_back_at_full_precision(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    corner = rng.random((9, 2))
    table = DetectionTable(
        ("139", *IMAGES),
        CLASSES,
        np.arange(9) % 3,
        np.concatenate((corner, corner + 1), axis=1),
        rng.random(9),
        rng.integers(1, 3, 9),
    )
    write_coco_results(table, tmp_path / "results.json", CATEGORIES)
    assert {e["image_id"] for e in json.loads((tmp_path / "results.json").read_text())} == {139, *IMAGES}
    again = read_coco_results(tmp_path / "results.json", table.image_ids, CLASSES, CATEGORIES)
    assert np.allclose(again.boxes, table.boxes, rtol=0, atol=1e-12)
    assert np.array_equal(again.scores, table.scores)
    assert np.array_equal(again.labels, table.labels)
    assert np.array_equal(again.image_index, table.image_index)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 7}, "unknown image or category '7'"),
        ({"category_id": 3}, "unknown image or category 3"),
        ({"bbox": [1, 2, 3]}, "expected image_id, category_id, bbox"),
        ({"bbox": [1, 2, -3, 4]}, "expected width and height of at least 0 and a score that is not NaN"),
        ({"score": float("nan")}, "expected width and height of at least 0 and a score that is not NaN"),
        ({"score": None}, "expected image_id, category_id, bbox"),
    ],
)
def test_a_malformed_coco_entry_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    good = {"image_id": 1, "category_id": 17, "bbox": [1, 2, 3, 4], "score": 0.5}
    (tmp_path / "results.json").write_text(json.dumps([good, good | change]))
    with pytest.raises(ValueError, match=f"results.json, entry 1: .*{message}"):
        read_coco_results(tmp_path / "results.json", IMAGES, CLASSES, CATEGORIES)


@pytest.mark.parametrize("text", ["{}", "[", "[1]"])
def test_other_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=r"results.json"):
        read_coco_results(tmp_path / "results.json", IMAGES, CLASSES, CATEGORIES)
