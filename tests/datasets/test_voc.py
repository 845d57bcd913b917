"""VOC folders: reading, refusals, and every fault reported with its file."""

from __future__ import annotations

import logging
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detector.datasets.box_convention import half_open
from detector.datasets.faults import FaultyDataError
from detector.datasets.images import to_pixels
from detector.datasets.voc import VOC_CLASSES, VOCDataset

BOX = (1, 1, 20, 15)


def load(voc: Any, split: str = "train", **options: object) -> VOCDataset:
    return VOCDataset(voc.root, split, **{"classes": None, **options})  # type: ignore[arg-type]


def test_boxes_are_half_open_and_labels_start_at_one(voc: Any) -> None:
    voc.add("train", "a", [("cell", (1, 2, 40, 30)), ("amoeba", (5, 6, 7, 9))])
    dataset = load(voc)
    assert dataset.classes == ("amoeba", "cell")
    assert dataset.annotations[0].boxes.tolist() == [[0, 1, 40, 30], [4, 5, 7, 9]]
    assert dataset.annotations[0].labels.tolist() == [2, 1]
    assert dataset.image(0).shape == (3, 30, 40)


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(1, 500)] * 4), max_size=5), st.sampled_from([0, 1]))
def test_converting_corners_to_boxes_is_reversible(corners: list[tuple[int, ...]], base: int) -> None:
    inclusive = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)
    boxes = half_open(inclusive, base)
    first, last = boxes[:, :2] + base, boxes[:, 2:] - 1 + base
    assert torch.equal(torch.cat((first, last), dim=1), inclusive)
    # The number of pixels between the corners, both included, is the side of the box.
    assert torch.equal(boxes[:, 2:] - boxes[:, :2], inclusive[:, 2:] - inclusive[:, :2] + 1)


@pytest.mark.parametrize("year", ["2007", "2012"])
def test_the_voc_data_set_has_the_voc_classes_in_order(voc_folder: Any, tmp_path: Path, year: str) -> None:
    voc_folder(tmp_path, year).add("train", "a", [("person", BOX), ("dog", BOX)])
    assert VOCDataset(tmp_path, f"{year}_train", classes=None).classes == VOC_CLASSES


def test_voc_class_names_in_another_folder_do_not_make_it_voc(voc: Any) -> None:
    voc.add("train", "a", [("person", BOX), ("dog", BOX)])
    assert load(voc).classes == ("dog", "person")


def test_a_union_of_years_keeps_the_order_of_the_lists(voc_folder: Any, tmp_path: Path) -> None:
    voc_folder(tmp_path, "2007").add("trainval", "000005", [("dog", BOX)])
    voc_folder(tmp_path, "2012").add("trainval", "2008_000002", [("cat", BOX)])
    dataset = VOCDataset(tmp_path, "2012_trainval+2007_trainval", classes=None)
    assert [item.image_id for item in dataset.annotations] == ["2008_000002", "000005"]


def test_an_id_in_two_folders_is_refused(voc_folder: Any, tmp_path: Path) -> None:
    voc_folder(tmp_path, "2007").add("train", "a", [("dog", BOX)])
    voc_folder(tmp_path, "2012").add("train", "a", [("dog", BOX)])
    with pytest.raises(ValueError, match=r"image a is listed twice.*VOC2007.*VOC2012"):
        VOCDataset(tmp_path, "2007_train+2012_train", classes=None)


def test_the_list_of_a_class_gives_its_images(voc: Any) -> None:
    for name in ("a", "b", "c"):
        voc.add("train", name, [("cell", BOX)])
    (voc.folder / "ImageSets/Main/cell_train.txt").write_text("a  1\nb -1\nc  0\n")
    assert [item.image_id for item in load(voc, "cell_train").annotations] == ["a", "c"]


def test_ids_may_have_spaces(voc: Any) -> None:
    voc.add("train", "my image 1", [("cell", BOX)])
    assert load(voc).annotations[0].image_id == "my image 1"


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".png", ".JPG", ".PNG"])
def test_any_suffix_is_found(voc: Any, suffix: str) -> None:
    voc.add("train", "a", [("cell", BOX)], suffix=suffix)
    assert load(voc).image(0).dtype == torch.uint8


def test_classes_are_those_of_both_splits(voc: Any) -> None:
    voc.add("train", "a", [("cell", BOX), ("amoeba", BOX)])
    voc.add("test", "b", [("cell", BOX)])
    assert (
        load(voc, "test", sibling="train").classes == load(voc, "train", sibling="test").classes == ("amoeba", "cell")
    )


def test_an_image_in_both_splits_gives_a_warning(voc: Any, caplog: pytest.LogCaptureFixture) -> None:
    voc.add("train", "a", [("cell", BOX)])
    voc.add("test", "a", [("cell", BOX)])
    with caplog.at_level(logging.WARNING, "detector"):
        load(voc, "train", sibling="test")
    assert "1 images are in both train and test" in caplog.text


def test_missing_tags_have_defaults_and_one_line(voc: Any, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b", "c"):
        voc.add("train", name, [("cell", BOX)] * 2, flags="", size=None)
    with caplog.at_level(logging.INFO, "detector"):
        dataset = load(voc, classes=["cell"])
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert all(f"<{tag}> absent in 3" in lines[0] for tag in ("difficult", "truncated", "occluded", "size"))
    assert not dataset.annotations[0].difficult.any()
    assert (dataset.annotations[0].width, dataset.annotations[0].height) == (40, 30)


def test_flags_are_read(voc: Any) -> None:
    tags = "<difficult>1</difficult><truncated>Unspecified</truncated><occluded>true</occluded>"
    voc.add("train", "a", [("cell", BOX)], flags=tags)
    item = load(voc).annotations[0]
    assert (item.difficult.item(), item.truncated.item(), item.occluded.item()) == (True, False, True)


def test_an_image_without_objects_is_valid(voc: Any) -> None:
    voc.add("train", "a")
    voc.add("train", "b", [("cell", BOX)])
    item = load(voc).annotations[0]
    assert item.boxes.shape == (0, 4)
    assert item.difficult.shape == item.labels.shape == (0,)


def test_base_is_decided_over_both_splits(voc: Any, caplog: pytest.LogCaptureFixture) -> None:
    voc.add("train", "a", [("cell", (0, 0, 39, 29)), ("cell", (0, 3, 9, 9))])
    voc.add("test", "b", [("cell", (5, 5, 9, 9))])
    with caplog.at_level(logging.INFO, "detector"):
        assert load(voc, "test", sibling="train").annotations[0].boxes.tolist() == [[5, 5, 10, 10]]
    assert "count from 0 (2 start at 0, 0 at 1, 0 end at the image's size)" in caplog.text
    assert load(voc, "train").annotations[0].boxes[0].tolist() == [0, 0, 40, 30]
    assert load(voc, "test", box_base="one").annotations[0].boxes.tolist() == [[4, 4, 9, 9]]


def test_a_single_zero_in_a_set_that_counts_from_1_is_clipped(voc: Any) -> None:
    voc.add("train", "a", [("cell", (1, 1, 40, 30)), ("cell", (1, 4, 9, 9))])
    path = voc.add("train", "b", [("cell", BOX), ("cell", (0, 4, 9, 9))])
    message = "object 1, (xmin, ymin, xmax, ymax) = (0, 4, 9, 9)"
    with pytest.raises(ValueError, match="extends beyond the edge") as error:
        load(voc, strict=True)
    assert f"{path}: {message}" in str(error.value)
    assert load(voc).annotations[1].boxes[1].tolist() == [0, 3, 9, 9]


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((5, 5, 5, 9), "object 1 has no area or is inverted"),
        ((9, 5, 5, 9), "object 1 has no area or is inverted"),
        (("nan", 5, 5, 9), "object 1 has a box that is not finite"),
        ((5, 5, "1e999", 9), "object 1 has a box that is not finite"),
        ((5, 5, "-Infinity", 9), "object 1 has a box that is not finite"),
        ((5, 5, 46, 9), "object 1 lies outside the image of 40x30"),
        ((5, 5, 9, 36), "object 1 lies outside the image of 40x30"),
        ((-3, 5, 9, 9), "object 1 starts before pixel 1"),
        ((50, 40, 60, 50), "object 1 lies outside the image of 40x30"),
        (("left", 5, 9, 9), "object 1 has no <bndbox> with four numbers"),
        (("", 5, 9, 9), "object 1 has no <bndbox> with four numbers"),
    ],
)
def test_a_bad_box_gives_one_error(voc: Any, box: tuple[float, ...], message: str) -> None:
    path = voc.add("train", "a", [("cell", BOX), ("cell", box)])
    with pytest.raises(ValueError) as error:
        load(voc)
    assert str(error.value).startswith(f"{path}: {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("base", ["one", "zero"])
def test_a_box_that_is_mostly_inside_is_clipped_with_a_warning(
    voc: Any, caplog: pytest.LogCaptureFixture, base: str
) -> None:
    path = voc.add("train", "a", [("cell", BOX), ("cell", (10, 5, 42, 9)), ("cell", (10, 5, 20, 31))])
    with caplog.at_level(logging.WARNING, "detector"):
        annotation = load(voc, box_base=base).annotations[0]
    assert annotation.boxes[1:, 2:].tolist() == [[40, 10 - (base == "one")], [21 - (base == "one"), 30]]
    (line,) = [record.getMessage() for record in caplog.records]
    assert "2 boxes extend beyond the edge of their image and are clipped" in line
    assert f"first: {path}: object 1, (xmin, ymin, xmax, ymax) = (10, 5, 42, 9) in 40x30" in line
    with pytest.raises(FaultyDataError) as error:
        load(voc, box_base=base, strict=True)
    assert len(error.value.faults) == 2


def test_an_unknown_class_is_refused_with_the_nearest_name(voc: Any) -> None:
    path = voc.add("train", "a", [("aeroplan", BOX)])
    with pytest.raises(ValueError, match="did you mean 'aeroplane'") as error:
        load(voc, classes=VOC_CLASSES)
    assert f"{path}: object 0 has the unknown class 'aeroplan'" in str(error.value)


def test_a_namespace_changes_nothing(voc: Any) -> None:
    path = voc.add("train", "a", [("cell", BOX)])
    path.write_text(path.read_text().replace("<annotation>", '<annotation xmlns="http://example.org/voc">'))
    assert load(voc).annotations[0].boxes.tolist() == [[0, 0, 20, 15]]


@pytest.mark.parametrize(
    ("was", "now", "message"),
    [
        ("object>", "Object>", "unknown element <Object> with <bndbox>; expected <object>"),
        ("object>", "objects>", "unknown element <objects> with <bndbox>"),
        ("object>", "item>", "unknown element <item> with <bndbox>"),
        ("bndbox>", "bbox>", "object 0 has no <bndbox> with four numbers"),
        ("annotation>", "annotations>", "the root element is <annotations>; expected VOC's <annotation>"),
        ("annotation>", "html>", "the root element is <html>"),
        ("</bndbox>", "</bndbox><bndbox/>", "object 0 has 2 <bndbox>"),
    ],
)
def test_unknown_elements_with_boxes_are_refused(voc: Any, was: str, now: str, message: str) -> None:
    path = voc.add("train", "a", [("cell", BOX)])
    path.write_text(path.read_text().replace(was, now))
    with pytest.raises(ValueError) as error:
        load(voc, classes=["cell"])
    assert str(error.value).startswith(f"{path}: {message}")


def test_objects_inside_another_element_are_refused(voc: Any) -> None:
    path = voc.add("train", "a", [("cell", BOX)])
    path.write_text(path.read_text().replace("<object>", "<all><object>").replace("</object>", "</object></all>"))
    with pytest.raises(ValueError, match="unknown element <all> with <bndbox>"):
        load(voc, classes=["cell"])


def test_unknown_elements_without_boxes_are_ignored(voc: Any) -> None:
    path = voc.add("train", "a", [("cell", BOX)])
    path.write_text(path.read_text().replace("<size>", "<weather>rain</weather><size>"))
    assert len(load(voc).annotations[0].boxes) == 1


@pytest.mark.parametrize(
    ("head", "encoding", "name"),
    [
        ('<?xml version="1.0" encoding="GB2312"?>', "gb2312", "\u7ec6\u80de"),
        ('<?xml version="1.0" encoding="gbk"?>', "gbk", "\u7ec6\u80de"),
        ('<?xml version="1.0" encoding="Shift_JIS"?>', "shift_jis", "\u7d30\u80de"),
        ('<?xml version="1.0" encoding="UTF-16"?>', "utf-16", "\u7ec6\u80de"),
        ("", "utf-16", "Zelle"),
        ("", "latin-1", "Br\u00f6tchen"),
        ('<?xml version="1.0"?>', "latin-1", "Br\u00f6tchen"),
        ('<?xml version="1.0" encoding="utf-8"?>', "cp1252", "Br\u00f6tchen"),
        ("", "utf-8-sig", "Br\u00f6tchen"),
    ],
)
def test_xml_in_other_encodings_is_read(voc: Any, head: str, encoding: str, name: str) -> None:
    path = voc.add("train", "a", [("cell", BOX)])
    path.write_bytes((head + path.read_text().replace("cell", name)).encode(encoding))
    dataset = load(voc)
    assert dataset.classes == (name,)
    assert dataset.annotations[0].boxes.tolist() == [[0, 0, 20, 15]]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8-sig", "latin-1"])
def test_image_lists_in_other_encodings_are_read(voc: Any, encoding: str) -> None:
    voc.add("train", "br\u00f6tchen", [("cell", BOX)])
    path = voc.folder / "ImageSets/Main/train.txt"
    path.write_bytes(path.read_text().encode(encoding))
    assert [item.image_id for item in load(voc).annotations] == ["br\u00f6tchen"]


@pytest.mark.parametrize("line", ["im0.jpg", "JPEGImages/im0.jpg", "data\\JPEGImages\\im0.JPG", "im0.xml", "im0  1"])
def test_ids_with_suffix_or_folder_are_found(voc: Any, line: str) -> None:
    voc.add("train", "im0", [("cell", BOX)])
    (voc.folder / "ImageSets/Main/train.txt").write_text(f"{line}\n")
    assert [item.image_id for item in load(voc).annotations] == ["im0"]


def test_ids_with_spaces_are_distinguished_from_flags(voc: Any) -> None:
    for name in ("image 1", "image -1", "image"):
        voc.add("train", name, [("cell", BOX)])
    (voc.folder / "ImageSets/Main/train.txt").write_text("image 1\nimage -1\n")
    assert [item.image_id for item in load(voc).annotations] == ["image 1", "image -1"]
    (voc.folder / "ImageSets/Main/train.txt").write_text("image 1  1\nimage -1  -1\n")
    assert [item.image_id for item in load(voc).annotations] == ["image 1"]


@pytest.mark.parametrize("suffix", [".bmp", ".webp", ".tif", ".tiff", ".TIF"])
def test_other_picture_formats_are_read(voc: Any, suffix: str) -> None:
    voc.add("train", "a", [("cell", BOX)], suffix=suffix)
    assert load(voc).image(0).shape == (3, 30, 40)


def test_broken_xml_is_refused(voc: Any) -> None:
    path = voc.add("train", "a", [("cell", BOX)])
    path.write_text(path.read_text()[:80])
    with pytest.raises(ValueError, match="not readable as XML") as error:
        load(voc)
    assert str(error.value).startswith(str(path))


def test_a_broken_size_is_refused(voc: Any) -> None:
    voc.add("train", "a", [("cell", BOX)], size=("wide", 30))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"<size> has width and height \('wide', '30'\)"):
        load(voc)


def test_missing_files_are_listed(voc: Any) -> None:
    voc.add("train", "a", [("cell", BOX)])
    voc.add("train", "b", [("cell", BOX)])
    (voc.folder / "JPEGImages/a.png").unlink()
    (voc.folder / "Annotations/b.xml").unlink()
    with pytest.raises(FaultyDataError) as error:
        load(voc)
    assert {fault.image_id for fault in error.value.faults} == {"a", "b"}
    assert "a.jpg: no such image" in str(error.value)
    assert "b.xml: no such annotation" in str(error.value)


def test_faults_are_listed_together(voc: Any) -> None:
    for number in range(13):
        voc.add("train", f"i{number}", [("cell", (9, 9, 2, 2))])
    with pytest.raises(FaultyDataError) as error:
        load(voc)
    assert str(error.value).startswith("13 faults in")
    assert "... and 3 more" in str(error.value)
    assert len(error.value.faults) == 13


def test_a_missing_list_is_refused_with_the_existing_ones(voc: Any) -> None:
    voc.add("trainval", "a", [("cell", BOX)])
    with pytest.raises(ValueError, match=r"split train: expected the image list .*found ImageSets/Main/trainval.txt"):
        load(voc)


def test_an_empty_list_is_refused(voc: Any) -> None:
    voc.add("train", "a", [("cell", BOX)])
    (voc.folder / "ImageSets/Main/train.txt").write_text("\n")
    with pytest.raises(ValueError, match="image list is empty"):
        load(voc)


def test_a_truncated_jpeg_is_refused(voc: Any) -> None:
    voc.add("train", "a", [("cell", BOX)], suffix=".jpg")
    path = voc.folder / "JPEGImages/a.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    dataset = load(voc)
    with pytest.raises(ValueError, match="cannot decode this image") as error:
        dataset.image(0)
    assert str(path) in str(error.value)


def test_an_image_of_another_size_is_refused(voc: Any) -> None:
    voc.add("train", "a", [("cell", BOX)], image_size=(30, 40))
    with pytest.raises(ValueError, match="the image is 30x40, its annotation says 40x30"):
        load(voc).image(0)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "1"])
def test_every_colour_mode_becomes_rgb(voc: Any, mode: str) -> None:
    voc.add("train", "a", [("cell", BOX)], suffix=".png" if mode != "CMYK" else ".jpg")
    path = next((voc.folder / "JPEGImages").iterdir())
    Image.open(path).convert(mode).save(path)
    assert load(voc).image(0).shape == (3, 30, 40)


def test_exif_does_not_rotate(voc: Any) -> None:
    voc.add("train", "a", [("cell", BOX)], suffix=".jpg")
    path = voc.folder / "JPEGImages/a.jpg"
    with Image.open(path) as picture:
        exif = picture.getexif()
        exif[0x0112] = 6  # rotate by 90 degrees for display
        picture.copy().save(path, exif=exif)
    assert load(voc).image(0).shape == (3, 30, 40)


def test_a_size_of_the_rotated_picture_rotates_the_pixels(voc: Any) -> None:
    """If <size> fits the upright picture, the tool showed it so. If it fits the stored pixels, they stay unrotated."""
    voc.add("train", "a", [("cell", (1, 1, 20, 15))], suffix=".jpg", size=(30, 40))
    path = voc.folder / "JPEGImages/a.jpg"
    with Image.open(path) as picture:
        stored = to_pixels(picture)
        exif = picture.getexif()
        exif[0x0112] = 6
        picture.copy().save(path, exif=exif, quality=95)
    turned = load(voc).image(0)
    assert turned.shape == (3, 40, 30)
    expected = torch.rot90(stored, -1, (1, 2))
    assert (turned.float() - expected.float()).abs().mean() < 20
    assert (turned.float() - torch.rot90(stored, 1, (1, 2)).float()).abs().mean() > 60


def test_suspicious_class_names_give_a_warning(voc: Any, caplog: pytest.LogCaptureFixture) -> None:
    voc.add("train", "a", [("cell", BOX), ("cell", BOX), ("Cell", BOX), ("background", BOX)])
    with caplog.at_level(logging.WARNING, "detector"):
        load(voc)
    assert "class 'Cell' (1) is nearly 'cell' (2)" in caplog.text
    assert "class 'background' (1): background needs no boxes" in caplog.text


def test_the_bccd_folder_is_read(shared_data: Path) -> None:
    pair = ("2007_trainval", "2007_test")
    sets = [VOCDataset(shared_data / "bccd", a, classes=None, sibling=b) for a, b in (pair, pair[::-1])]
    assert [len(item.annotations) for item in sets] == [292, 72]
    assert all(item.classes == ("Platelets", "RBC", "WBC") for item in sets)
    assert sets[1].image(71).shape == (3, 480, 640)


def test_all_of_voc_2007_test_is_read(shared_data: Path, tmp_path: Path) -> None:
    with tarfile.open(shared_data / "voc2007_annotations.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "VOC2007/JPEGImages").mkdir(exist_ok=True)
    for path in (tmp_path / "VOC2007/Annotations").iterdir():
        (tmp_path / "VOC2007/JPEGImages" / f"{path.stem}.jpg").touch()
    dataset = VOCDataset(tmp_path, "2007_test", classes=None)
    assert len(dataset.annotations) == 4952
    assert sum(int((~item.difficult).sum()) for item in dataset.annotations) == 12032
    assert dataset.classes == VOC_CLASSES
