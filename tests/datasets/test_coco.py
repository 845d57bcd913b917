"""COCO-format files: reading, and every fault reported with its annotation."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detector.configs import schema
from detector.datasets.build import build_dataset
from detector.datasets.coco import COCODataset
from detector.datasets.faults import FaultyDataError


def content(*boxes: list[float], **changed: Any) -> dict[str, Any]:
    """Return two images of 40x30. The boxes are on the first, of category 7."""
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


def load(folder: Path, document: Any) -> COCODataset:
    (folder / "images" / "deep").mkdir(parents=True, exist_ok=True)
    for name in ("b.png", "deep/a.png"):
        Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(folder / "images" / name)
    (folder / "train.json").write_text(document if isinstance(document, str) else json.dumps(document))
    return COCODataset(folder / "train.json", folder / "images")


def test_boxes_labels_and_crowds_are_read(tmp_path: Path) -> None:
    document = content([1.5, 2, 10, 20], [0, 0, 40.4, 30])
    document["annotations"][1] |= {"iscrowd": 1, "category_id": 2}
    dataset = load(tmp_path, document)
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
    ("box", "changed", "message"),
    [
        ([5, 5, -2, 9], {}, "has an inverted box"),
        ([5, 5, 50, 9], {}, "lies outside the image of 40x30"),
        ([-5, 5, 7, 9], {}, "lies outside the image of 40x30"),
        ([float("nan"), 5, 20, 20], {}, "has a box that is not finite"),
        ([5, 5, float("inf"), 20], {}, "has a box that is not finite"),
        ([5, 5, 20, 10**400], {}, "has a box that is not finite"),
        ([5, 5, 20], {}, "has a bbox that is [5, 5, 20]; expected 4 numbers"),
        (["5", "5", "20", "20"], {}, "has a bbox that is ['5', '5', '20', '20']; expected 4 numbers"),
        ([5, 5, None, True], {}, "has a bbox that is [5, 5, None, True]; expected 4 numbers"),
        ({"x": 5}, {}, "has a bbox that is {'x': 5}; expected 4 numbers"),
        ([5, 5, 7, 9], {"category_id": None}, "has a category_id that is None; expected a whole number or text"),
        ([5, 5, 7, 9], {"image_id": [12]}, "has an image_id that is [12]; expected a whole number or text"),
        ([5, 5, 7, 9], {"category_id": 8}, "has the unknown category 8; known: 2, 7"),
        ([5, 5, 7, 9], {"image_id": 99}, "is for image 99, which is not in `images`"),
    ],
)
def test_a_bad_annotation_is_named(tmp_path: Path, box: list[float], changed: dict[str, int], message: str) -> None:
    document = content([1, 1, 5, 5], box)
    document["annotations"][1] |= changed
    with pytest.raises(FaultyDataError) as error:
        load(tmp_path, document)
    assert str(error.value).startswith(f"{tmp_path / 'train.json'}: annotation 101 {message}")


def test_boxes_without_area_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "detector"):
        dataset = load(tmp_path, content([1, 1, 0, 5], [1, 1, 5, 5]))
    assert len(dataset.annotations[0].boxes) == 1
    assert "1 boxes without area are left out" in caplog.text


def test_a_missing_image_is_refused(tmp_path: Path) -> None:
    document = content([1, 1, 5, 5])
    document["images"].append({"id": 4, "file_name": "gone.png", "width": 4, "height": 4})
    with pytest.raises(ValueError, match="gone.png: no such image"):
        load(tmp_path, document)


def test_annotations_can_be_read_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps(content([1, 1, 5, 5])))
    dataset = COCODataset(tmp_path / "train.json", tmp_path / "absent", need_images=False)
    assert [len(item.boxes) for item in dataset.annotations] == [1, 0]


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    document = content([1, 1, 5, 5])
    document["images"][0]["width"] = 50
    with pytest.raises(ValueError, match="the image is 40x30, its annotation says 50x30"):
        load(tmp_path, document).image(0)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "not readable as JSON"),
        ("[]", "expected an object with a list of objects under 'categories', but it is list"),
        ({"images": []}, "expected an object with a list of objects under 'categories', but 'categories' is NoneType"),
        (content(annotations={"a": 1}), "list of objects under 'annotations', but 'annotations' is dict"),
        (content(categories=[]), "`categories` is empty"),
        (content(images=[{"id": 1}]), "image 1: its file_name is None; expected text"),
        (content(images=[{"id": 1, "file_name": "a", "width": 1e999, "height": 2}]), "its width is inf; expected"),
        ("[" * 100_000, "not readable as JSON .brackets nested too deeply"),
        (
            content(categories=[{"id": 7, "name": "a"}, {"id": "7", "name": "b"}]),
            r"two categories have the id 7 \(a, b\)",
        ),
        (content(categories=[{"id": 7, "name": "a"}, {"id": 8, "name": "a"}]), "categories 7 and 8 are both named 'a'"),
        (
            content(categories=[{"id": 7, "name": None}]),
            "category 7: its name is None; expected a whole number or text",
        ),
        (
            content(images=[{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}]),
            r"image 1: two images have this id \(a.png, b.png\)",
        ),
        (
            content(images=[{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "a.png"}]),
            "image 2: image 1 has the same file a.png",
        ),
    ],
)
def test_files_of_another_structure_are_refused(tmp_path: Path, document: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(tmp_path, document)


def test_a_fault_in_a_box_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        load(tmp_path, content([1, 1, "x", 5]))
    assert str(error.value).startswith(str(tmp_path / "train.json"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_other_encodings_are_read(tmp_path: Path, encoding: str) -> None:
    load(tmp_path, content([1, 1, 5, 5]))
    text = (tmp_path / "train.json").read_text().replace("cell", "Zelle \u00e4")
    (tmp_path / "train.json").write_bytes(text.encode(encoding))
    assert COCODataset(tmp_path / "train.json", tmp_path / "images").classes == ("amoeba", "Zelle \u00e4")


def test_ids_may_be_text(tmp_path: Path) -> None:
    document = content([1, 1, 5, 5], [2, 2, 5, 5])
    document["images"][0]["id"] = "img-12"
    document["categories"][0]["id"], document["categories"][1]["id"] = "10", "9"
    for item, category in zip(document["annotations"], ("10", 9), strict=True):
        item |= {"image_id": "img-12", "category_id": category}
    dataset = load(tmp_path, document)
    assert dataset.classes == ("amoeba", "cell"), "in numeric order: 9 before 10"
    assert dataset.annotations[0].image_id == "img-12"
    assert dataset.annotations[0].labels.tolist() == [2, 1]


def test_missing_sizes_are_read_from_the_pictures(tmp_path: Path) -> None:
    document = content([1, 1, 5, 5])
    for item in document["images"]:
        del item["width"], item["height"]
    assert (load(tmp_path, document).annotations[0].width, load(tmp_path, document).annotations[0].height) == (40, 30)


def test_a_box_that_is_mostly_inside_is_clipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "detector"):
        dataset = load(tmp_path, content([20, 5, 22, 9]))
    assert dataset.annotations[0].boxes.tolist() == [[20, 5, 40, 14]]
    assert "1 boxes extend beyond the edge" in caplog.text
    with pytest.raises(FaultyDataError, match="extends beyond the edge"):
        COCODataset(tmp_path / "train.json", tmp_path / "images", strict=True)


def pair(tmp_path: Path, test_categories: list[dict[str, Any]]) -> schema.COCODatasetConfig:
    load(tmp_path, content([1, 1, 5, 5]))
    (tmp_path / "test.json").write_text(json.dumps(content(categories=test_categories)))
    places = {"train": str(tmp_path / "train.json"), "test": str(tmp_path / "test.json")}
    images = str(tmp_path / "images")
    return schema.COCODatasetConfig(**places, train_images=images, test_images=images)


def test_the_training_file_sets_the_class_numbers_of_both_splits(tmp_path: Path) -> None:
    config = pair(tmp_path, [{"id": 1, "name": "cell"}, {"id": 2, "name": "amoeba"}])
    assert build_dataset(config, "test").classes == ("amoeba", "cell")


def test_categories_of_another_file_are_refused(tmp_path: Path) -> None:
    config = pair(tmp_path, [{"id": 7, "name": "cell"}, {"id": 2, "name": "worm"}])
    with pytest.raises(ValueError, match="test.json: its categories are not those of the training file: worm"):
        build_dataset(config, "test")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such annotation file"):
        COCODataset(tmp_path / "x.json", tmp_path)
