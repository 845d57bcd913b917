"""COCO-format files: what is read, and every fault with the annotation that has it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detector.datasets.coco import COCODataset
from detector.datasets.faults import FaultyDataError


def content(*boxes: list[float], **changed: Any) -> dict[str, Any]:
    """Two images of 40x30; the boxes are on the first, of category 7."""
    annotations = [
        {"id": number, "image_id": 12, "category_id": 7, "bbox": box, "iscrowd": 0}
        for number, box in enumerate(boxes, start=100)
    ]
    sizes = {"width": 40, "height": 30}
    return {
        "images": [{"id": 12, "file_name": "b.png", **sizes}, {"id": 3, "file_name": "deep/a.png", **sizes}],
        "categories": [{"id": 7, "name": "cell"}, {"id": 2, "name": "amoeba"}],
        "annotations": annotations,
        **changed,
    }


def load(folder: Path, what: Any) -> COCODataset:
    (folder / "images" / "deep").mkdir(parents=True, exist_ok=True)
    for name in ("b.png", "deep/a.png"):
        Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(folder / "images" / name)
    (folder / "train.json").write_text(what if isinstance(what, str) else json.dumps(what))
    return COCODataset(folder / "train.json", folder / "images")


def test_boxes_labels_and_crowds(tmp_path: Path) -> None:
    what = content([1.5, 2, 10, 20], [0, 0, 40.4, 30])
    what["annotations"][1] |= {"iscrowd": 1, "category_id": 2}
    dataset = load(tmp_path, what)
    assert dataset.classes == ("amoeba", "cell")
    first, second = dataset.annotations
    assert (first.image_id, second.image_id) == ("12", "3")
    assert first.boxes.tolist() == [[1.5, 2, 11.5, 22], [0, 0, 40, 30]]
    assert first.labels.tolist() == [2, 1]
    assert first.difficult.tolist() == [False, True]
    assert second.boxes.shape == (0, 4)
    assert dataset.image(1).shape == (3, 30, 40)
    assert first.labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("box", "changed", "said"),
    [
        ([5, 5, -2, 9], {}, "has an inverted box"),
        ([5, 5, 50, 9], {}, "lies outside its image of 40x30"),
        ([-5, 5, 7, 9], {}, "lies outside its image of 40x30"),
        ([5, 5, 7, 9], {"category_id": 8}, "has the unknown category 8; known: 2, 7"),
        ([5, 5, 7, 9], {"image_id": 99}, "is of image 99, which `images` has not"),
    ],
)
def test_a_bad_annotation_is_named(tmp_path: Path, box: list[float], changed: dict[str, int], said: str) -> None:
    what = content([1, 1, 5, 5], box)
    what["annotations"][1] |= changed
    with pytest.raises(FaultyDataError) as error:
        load(tmp_path, what)
    assert str(error.value).startswith(f"{tmp_path / 'train.json'}: annotation 101 {said}")


def test_boxes_without_area_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "detector"):
        dataset = load(tmp_path, content([1, 1, 0, 5], [1, 1, 5, 5]))
    assert len(dataset.annotations[0].boxes) == 1
    assert "1 boxes without area are left out" in caplog.text


def test_missing_image(tmp_path: Path) -> None:
    what = content([1, 1, 5, 5])
    what["images"].append({"id": 4, "file_name": "gone.png", "width": 4, "height": 4})
    with pytest.raises(ValueError, match="gone.png: no such image"):
        load(tmp_path, what)


def test_result_files_are_scored_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps(content([1, 1, 5, 5])))
    dataset = COCODataset(tmp_path / "train.json", tmp_path / "absent", need_images=False)
    assert [len(item.boxes) for item in dataset.annotations] == [1, 0]


def test_an_image_of_another_size(tmp_path: Path) -> None:
    what = content([1, 1, 5, 5])
    what["images"][0]["width"] = 50
    with pytest.raises(ValueError, match="the image is 40x30, its annotation says 50x30"):
        load(tmp_path, what).image(0)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("{", "not readable as JSON"),
        ("[]", "expected an object with images, annotations, categories; got list"),
        ({"images": []}, "expected COCO's format .* 'categories'"),
        (content(images=[{"id": 1}]), "expected COCO's format .* 'file_name'"),
    ],
)
def test_other_files(tmp_path: Path, what: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load(tmp_path, what)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such annotation file"):
        COCODataset(tmp_path / "x.json", tmp_path)
