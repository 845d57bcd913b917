"""Any folder, opened by its path only: its content, its splits, its messages, and refusals."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detector.configs import schema
from detector.datasets.build import build_dataset, build_datasets, open_folder
from detector.datasets.faults import FaultyDataError
from detector.datasets.folder import Folder
from detector.datasets.splits import write_split
from tests.datasets.readers import formats

BOX = (1, 1, 20, 15)
Add = Callable[..., None]


def picture(path: Path, seed: int, size: tuple[int, int] = (40, 30)) -> Path:
    """Save a picture of noise that depends on the seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def xml(path: Path, names: Sequence[str] = ("cell",), filename: str = "", box: Sequence[float] = BOX) -> Path:
    """Write an annotation file as LabelImg does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    objects = "".join(f"<object><name>{name}</name><bndbox>{corners}</bndbox></object>" for name in names)
    size = "<size><width>40</width><height>30</height></size>"
    path.write_text(f"<annotation><filename>{filename}</filename>{size}{objects}</annotation>")
    return path


def all_ids(folder: Folder) -> list[str]:
    return sorted(item.image_id for side in (folder.train, folder.test) for item in side.annotations)


def ids(folder: Folder) -> tuple[list[str], list[str]]:
    train, test = ([item.image_id for item in side.annotations] for side in (folder.train, folder.test))
    return train, test


@pytest.mark.parametrize("names", [("train", "test"), ("train", "valid"), ("Train", "val"), ("training", "Testing")])
def test_labelimg_files_in_two_split_folders_are_read(tmp_path: Path, names: tuple[str, str]) -> None:
    for side, stem in zip(names, ("a", "b"), strict=True):
        picture(tmp_path / side / f"{stem}.JPG", ord(stem))
        xml(tmp_path / side / f"{stem}.xml", ["ace" if stem == "a" else "king"])
    folder = Folder(tmp_path)
    assert folder.summary[0] == "LabelImg folder: 2 pictures, XML beside them"
    assert ids(folder) == (["a"], ["b"])
    assert folder.train.classes == folder.test.classes == ("ace", "king")
    assert folder.test.annotations[0].boxes.tolist() == [[0, 0, 20, 15]]
    assert folder.test.annotations[0].labels.tolist() == [2]
    assert folder.test.image(0).shape == (3, 30, 40)


@pytest.mark.parametrize("layout", [("images", "annots"), ("images", "annotations"), ("Images", "labels"), ("", "xml")])
def test_annotations_in_a_separate_folder_are_found(tmp_path: Path, layout: tuple[str, str]) -> None:
    for number in range(5):
        picture(tmp_path / layout[0] / f"{number}.png", number)
        xml(tmp_path / layout[1] / f"{number}.xml")
    folder = Folder(tmp_path)
    assert folder.summary[0] == f"VOC XML: 5 pictures, annotations in {layout[1]}"
    assert all_ids(folder) == list("01234")


def test_splits_below_images_and_annotations_are_found(tmp_path: Path) -> None:
    """The same name in two splits means two pictures, each with the annotation of its split."""
    for number, side in enumerate(("train", "val")):
        picture(tmp_path / "images" / side / "1.jpg", number)
        xml(tmp_path / "annotations" / side / "1.xml", [side])
    folder = Folder(tmp_path)
    assert ids(folder) == (["images/train/1"], ["images/val/1"])
    assert folder.train.files == [tmp_path / "images/train/1.jpg"]
    assert folder.train.classes[folder.train.annotations[0].labels[0] - 1] == "train"


def test_voc_trees_with_lists_are_read(voc_folder: Callable[..., object], tmp_path: Path) -> None:
    for year in ("2007", "2012"):
        tree = voc_folder(tmp_path / "VOCdevkit", year)
        for split in ("train", "trainval", "test"):
            tree.add(split, f"{year}_{split.replace('trainval', 'train')}", [("dog", BOX)])  # type: ignore[attr-defined]
    folder = Folder(tmp_path / "VOCdevkit")
    assert ids(folder) == (["2007_train", "2012_train"], ["2007_test", "2012_test"])
    assert len(folder.train.classes) == 20
    assert folder.summary[0] == "VOC tree: 4 pictures, image lists test, train, trainval"
    above = Folder(tmp_path)
    assert above.train.classes == ("dog",)
    assert ids(above) == ids(folder)


def test_a_voc_tree_without_lists_is_read(voc: object, tmp_path: Path) -> None:
    for name in ("a", "bb", "ccc", "dddd"):  # names of different lengths get different pictures
        voc.add("all", name, [("cell", BOX)])  # type: ignore[attr-defined]
    shutil.rmtree(tmp_path / "data/ImageSets")
    assert all_ids(Folder(tmp_path / "data")) == ["a", "bb", "ccc", "dddd"]


def test_a_wrong_filename_is_ignored_if_the_picture_is_beside_the_annotation(tmp_path: Path) -> None:
    for stem in "abc":
        picture(tmp_path / f"{stem}.png", ord(stem))
        xml(tmp_path / f"{stem}.xml", filename="a.png")
    assert all_ids(Folder(tmp_path)) == ["a", "b", "c"]


def test_a_filename_with_a_windows_path_finds_its_picture(tmp_path: Path) -> None:
    for stem in "abc":
        picture(tmp_path / "photos" / f"IMG {stem}.JPG", ord(stem))
        xml(tmp_path / "xml" / f"{stem}.xml", filename=f"C:\\cards\\img {stem}.jpg")
    assert all_ids(Folder(tmp_path)) == ["IMG a", "IMG b", "IMG c"]


def test_a_name_of_two_pictures_is_refused(tmp_path: Path) -> None:
    for place in ("one", "two"):
        picture(tmp_path / place / "a.png", len(place))
    xml(tmp_path / "xml" / "a.xml")
    with pytest.raises(ValueError, match=r"xml/a.xml: 'a' may mean one/a.png or two/a.png"):
        Folder(tmp_path)


def test_an_annotation_without_a_picture_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 1)
    xml(tmp_path / "a.xml")
    lost = xml(tmp_path / "b.xml", filename="gone.jpg")
    with pytest.raises(FaultyDataError, match="no picture of this name") as error:
        Folder(tmp_path)
    assert str(lost) in str(error.value)
    assert "gone.jpg" in str(error.value)


def test_a_picture_without_an_annotation_is_left_out_and_reported(tmp_path: Path) -> None:
    for stem in "abcd":
        picture(tmp_path / f"{stem}.png", ord(stem))
        if stem != "d":
            xml(tmp_path / f"{stem}.xml")
    folder = Folder(tmp_path)
    assert "1 pictures have no annotation and are left out" in "\n".join(folder.summary)
    assert all_ids(folder) == ["a", "b", "c"]


@pytest.mark.parametrize("kind", ["nothing", "empty", "file", "pictures", "archive", "phone", "table"])
def test_folders_that_cannot_be_opened_are_refused(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "data"
    messages = {
        "nothing": "does not exist",
        "empty": "no pictures",
        "file": "is a file",
        "pictures": "no annotations of",
        "archive": "no pictures .*; unpack photos.zip$",
        "phone": "no pictures .*; convert the 1 pictures like a.heic to",
        "table": "no annotations of .*; x.csv begins with 'photo,kind': expected the columns filename, xmin, ymin",
    }
    files = {"archive": "photos.zip", "phone": "a.heic", "table": "x.csv"}
    if kind == "file":
        root.write_text("x")
    elif kind != "nothing":
        root.mkdir()
    if kind in files:
        (root / files[kind]).write_text("photo,kind\n")
    if kind in ("pictures", "table"):
        picture(root / "a.png", 1)
    with pytest.raises(ValueError, match=messages[kind]) as error:
        Folder(root)
    assert str(error.value).startswith(f"dataset.root={root}: ")


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    formats.labelimg(tmp_path)
    listing = os.scandir

    def scandir(path: str) -> Any:
        if path.endswith("test"):
            raise PermissionError(13, "Permission denied")
        return listing(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ValueError, match=r"/test: this folder cannot be listed .Permission denied."):
        Folder(tmp_path)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """40 pictures without splits: two classes, one of them rare, and two without objects."""
    root = tmp_path / "many"
    for number in range(40):
        picture(root / f"{number:02}.png", number)
        names = [] if number in (7, 31) else ["common"] + ["rare"] * (number in (3, 21, 33))
        xml(root / f"{number:02}.xml", names)
    return root


def test_a_split_by_content_is_stratified(many: Path) -> None:
    folder = Folder(many, val_fraction=0.25)
    assert len(folder.test.annotations) in range(8, 13)
    for side in (folder.train, folder.test):
        labels = [set(item.labels.tolist()) for item in side.annotations]
        assert {1, 2} <= set().union(*labels)
        assert set() in labels
    assert not set(ids(folder)[0]) & set(ids(folder)[1])


def test_a_split_by_content_does_not_depend_on_names(many: Path, tmp_path: Path) -> None:
    folder = Folder(many)
    contents = {path.read_bytes() for path in folder.test.files}
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for path in many.iterdir():
        shutil.copy(path, renamed / f"z{99 - int(path.stem)}{path.suffix}")
    assert {path.read_bytes() for path in Folder(renamed).test.files} == contents


def test_copies_are_in_the_split_of_their_original(many: Path) -> None:
    for number in range(40):
        with Image.open(many / f"{number:02}.png") as image:
            large = image.resize((400, 300), Image.Resampling.BICUBIC)
        large.save(many / f"{number:02}.png")
        large.save(many / f"near_{number:02}.jpg", quality=80)
        for stem in (f"{number:02}", f"near_{number:02}"):
            shutil.copy(many / f"{number:02}.xml", many / f"copy_{stem}.xml")
            path = many / f"copy_{stem}.xml"
            path.rename(many / f"{stem}.xml")
    for path in many.glob("*.xml"):
        path.write_text(path.read_text().replace("<width>40<", "<width>400<").replace("<height>30<", "<height>300<"))
    folder = Folder(many)
    assert "40 copies are in the same split as their originals" in folder.summary[-1]
    train, test = ({name.removeprefix("near_") for name in side} for side in ids(folder))
    assert not train & test
    assert len(train | test) == 40


def test_a_saved_split_is_reused(many: Path, tmp_path: Path) -> None:
    folder = Folder(many)
    write_split(tmp_path / "split.json", folder.split)
    picture(many / "new.png", 99)
    xml(many / "new.xml")
    again = Folder(many, split_file=tmp_path / "split.json")
    assert ids(again) == ids(folder)
    assert "1 newer pictures are not used" in again.summary[-1]
    (many / f"{ids(folder)[0][0]}.xml").unlink()
    with pytest.raises(ValueError, match="1 of its pictures are missing"):
        Folder(many, split_file=tmp_path / "split.json")
    (tmp_path / "split.json").write_text("[1]")
    with pytest.raises(ValueError, match="cannot be read as a split"):
        Folder(many, split_file=tmp_path / "split.json")


def test_copies_of_one_picture_cannot_be_divided(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / f"{name}.png", 1)
        xml(tmp_path / f"{name}.xml")
    with pytest.raises(ValueError, match="2 pictures, 1 of them different; expected two or more"):
        Folder(tmp_path)


def three_splits(root: Path) -> Path:
    for number, side in enumerate(("train", "valid", "test")):
        picture(root / side / f"{side}.png", number)
        xml(root / side / f"{side}.xml")
    return root


def test_an_unused_third_split_is_reported(tmp_path: Path) -> None:
    folder = Folder(three_splits(tmp_path))
    assert ids(folder) == (["train"], ["test"])
    assert folder.summary[-1] == "1 pictures to train on (train), 1 to test on (test); not used: val (1)"
    assert ids(Folder(tmp_path, train="train+val")) == (["train", "valid"], ["test"])
    assert ids(Folder(tmp_path, test="val")) == (["train"], ["valid"])
    with pytest.raises(ValueError, match=r"dataset.train=trane: .* has no split 'trane'; it has train \(1\), val"):
        Folder(tmp_path, train="trane")


def test_classes_are_renamed_merged_and_chosen(tmp_path: Path) -> None:
    for number, names in enumerate((["cat"], ["catt", "dog"], ["dog"], ["cow"])):
        picture(tmp_path / f"{number}.png", number)
        xml(tmp_path / f"{number}.xml", names)
    folder = Folder(tmp_path, rename={"catt": "cat"}, classes=["dog", "cat"])
    assert folder.train.classes == ("dog", "cat")
    assert "classes left out, since they are not in dataset.classes: cow (1)" in folder.summary
    assert "classes: dog (2), cat (2)" in folder.summary
    with pytest.raises(FaultyDataError, match="has the class 'cow', which is not in dataset.classes"):
        Folder(tmp_path, rename={"catt": "cat"}, classes=["dog", "cat"], strict=True)
    with pytest.raises(ValueError, match=r"no object of dataset.classes=\['horse'\]; it has cat \(1\), catt"):
        Folder(tmp_path, classes=["horse"])


def test_a_config_opens_a_folder(many: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = schema.AutoDatasetConfig(root=str(many))
    with caplog.at_level(logging.INFO, "detector"):
        pair = build_datasets(config)
    assert f"{many}: LabelImg folder: 40 pictures, XML beside them" in caplog.messages
    apart = [build_dataset(config, role) for role in ("train", "test")]
    for one, other in zip(pair, apart, strict=True):
        assert [item.image_id for item in one.annotations] == [item.image_id for item in other.annotations]
    assert ids(open_folder(config))[1] == [item.image_id for item in pair[1].annotations]


def test_the_cards_folder_is_read(shared_data: Path) -> None:
    folder = Folder(shared_data / "cards")
    assert folder.summary[0] == "LabelImg folder: 363 pictures, XML beside them"
    assert (len(folder.train.annotations), len(folder.test.annotations)) == (296, 67)
    assert folder.train.classes == ("ace", "jack", "king", "nine", "queen", "ten")
    assert sum(len(item.boxes) for side in (folder.train, folder.test) for item in side.annotations) == 670


def test_the_bccd_folder_is_read_by_its_path_only(shared_data: Path) -> None:
    folder = Folder(shared_data / "bccd")
    assert (len(folder.train.annotations), len(folder.test.annotations)) == (292, 72)
    assert folder.train.classes == ("Platelets", "RBC", "WBC")


def test_a_picture_in_both_lists_is_in_both_splits_and_reported(tmp_path: Path) -> None:
    formats.voc(tmp_path)
    (tmp_path / "ImageSets/Main/test.txt").write_text("a\nd\n")
    folder = Folder(tmp_path)
    assert ids(folder) == (["a", "b c"], ["a", "d"])
    assert "1 pictures are in train and in test (first: a): scores on them mean nothing" in folder.odd


@pytest.mark.parametrize("write", formats.FORMATS, ids=lambda write: write.__name__)
def test_folders_of_every_format_can_be_joined_with_classes_merged_or_left_out(
    tmp_path: Path, write: Callable[[Path], str]
) -> None:
    """A folder of each format, joined to a folder without splits. Two classes are merged, one is left out."""
    write(tmp_path / "one")
    for number, name in enumerate(("bird", "Cat")):
        picture(tmp_path / f"two/{number}.jpg", 100 + number)
        xml(tmp_path / f"two/{number}.xml", [name])
    folder = Folder(tmp_path / "one", also=[tmp_path / "two"], rename={"Cat": "cat"}, classes=["cat", "dog"])
    assert folder.train.classes == folder.test.classes == ("cat", "dog")
    sides = {"train": folder.train, "test": folder.test}
    counts = {name: sum(item.labels.tolist().count(1) for item in side.annotations) for name, side in sides.items()}
    dogs = {name: sum(item.labels.tolist().count(2) for item in side.annotations) for name, side in sides.items()}
    if any(name in folder.split.summary for name in ("(test)", "(val)")):
        assert (counts, dogs["train"]) == ({"train": 3, "test": 0}, 1)
    else:  # by contents
        assert (counts["train"] + counts["test"], dogs["train"] + dogs["test"]) == (3, 2)
    assert "classes left out, since they are not in dataset.classes: bird (1)" in folder.notes
    assert len(folder.train.files) + len(folder.test.files) == 5


def test_joined_folders_get_distinct_ids(tmp_path: Path) -> None:
    for side in ("one", "two"):
        picture(tmp_path / side / "a.jpg", ord(side[0]))
        xml(tmp_path / side / "a.xml")
    assert all_ids(Folder(tmp_path / "one", also=[tmp_path / "two"])) == ["1/a", "2/a"]


def test_joining_a_folder_to_itself_is_refused(tmp_path: Path) -> None:
    formats.labelimg(tmp_path)
    with pytest.raises(ValueError, match="that share no picture with"):
        Folder(tmp_path, also=[tmp_path / "train"])


def test_a_fault_of_a_joined_folder_names_its_setting(tmp_path: Path) -> None:
    formats.labelimg(tmp_path / "one")
    with pytest.raises(ValueError, match=r"dataset\.also=.*/two: does not exist; expected a folder"):
        Folder(tmp_path / "one", also=[tmp_path / "two"])
    formats.pictures(tmp_path / "two")
    with pytest.raises(ValueError, match=r"dataset\.also=.*/two: 3 pictures, but no annotations"):
        Folder(tmp_path / "one", also=[tmp_path / "two"])
