"""Every reader gives the same result for the same data, and each fault names its file and place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detector.datasets.faults import FaultyDataError
from detector.datasets.folder import Folder
from tests.datasets.readers.formats import (
    FORMATS,
    HEIGHT,
    TRUTH,
    WIDTH,
    csv,
    csv_without_head,
    cvat,
    label_studio,
    labelme,
    open_images,
    pictures,
    roboflow_coco,
    studio_tasks,
    via,
    yolo_darknet,
    yolo_data,
)


@pytest.mark.parametrize(
    "write", [item for item in FORMATS if item is not open_images], ids=lambda write: write.__name__
)
def test_every_format_gives_the_same_annotations(tmp_path: Path, write: Callable[[Path], str]) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    line = write(root)
    folder = Folder(root)
    assert folder.summary[0] == line
    assert folder.train.classes == folder.test.classes == ("cat", "dog")
    found = {}
    for split, side in (("train", folder.train), ("test", folder.test)):
        for item, file in zip(side.annotations, side.files, strict=True):
            assert (item.width, item.height) == (WIDTH, HEIGHT)
            assert file.stem == item.image_id
            names = [side.classes[label - 1] for label in item.labels]
            found[f"{split}/{item.image_id}"] = list(zip(names, item.boxes.tolist(), strict=True))
    assert found.keys() == TRUTH.keys()
    for name, objects in TRUTH.items():
        assert [label for label, _ in found[name]] == [label for label, _ in objects]
        for (_, box), (_, expected) in zip(found[name], objects, strict=True):
            assert box == pytest.approx(expected, abs=1e-3)


def test_open_images_skips_missing_pictures(tmp_path: Path) -> None:
    line = open_images(tmp_path)
    (tmp_path / "test-annotations-bbox.csv").write_text(
        (tmp_path / "test-annotations-bbox.csv").read_text().replace("d,xclick", "gone,xclick", 1)
        + "\nd,xclick,/m/02,1,0.1,1,0.2,1,0,1,1"
    )
    folder = Folder(tmp_path)
    assert folder.summary[0] == line
    assert "1 pictures of the tables are not in the folder and are left out" in folder.summary
    assert folder.train.classes == ("cat", "dog")
    first = folder.train.annotations[0]
    assert first.boxes[0].tolist() == pytest.approx([10, 6, 30, 24])
    assert first.truncated.all()
    assert not first.occluded.any()
    assert folder.test.annotations[0].difficult.tolist()[-1] is True


def test_cvat_flags_are_read(tmp_path: Path) -> None:
    cvat(tmp_path)
    first = Folder(tmp_path).train.annotations[0]
    assert first.difficult.tolist() == [True, False]
    assert first.occluded.tolist() == [True, False]


def test_points_are_skipped_and_reported(tmp_path: Path) -> None:
    labelme(tmp_path)
    assert "shapes that are not boxes are skipped: point (3)" in Folder(tmp_path).summary


def test_of_several_annotations_of_a_task_the_first_is_used(tmp_path: Path) -> None:
    pictures(tmp_path)
    tasks = studio_tasks(small=False)
    tasks[0]["annotations"].append({"result": []})
    tasks.append({"id": 9, "data": {"image": "later.jpg"}, "annotations": []})
    (tmp_path / "x.json").write_text(json.dumps(tasks))
    told = Folder(tmp_path).summary
    assert "1 tasks are annotated several times; the first annotation is used" in told
    assert "1 tasks are not annotated and are left out" in told


def test_several_formats_are_refused_with_their_names(tmp_path: Path) -> None:
    labelme(tmp_path)
    csv(tmp_path)
    content = (tmp_path / "train/a.json").read_text()
    (tmp_path / "train/a.json").write_text(content.replace('"label": "dog"', '"label": "cow"'))
    message = r"several formats: labelme \(.*and 2 more\); csv \(.*a.jpg has other boxes or classes in .*format=labelme"
    with pytest.raises(ValueError, match=message):
        Folder(tmp_path)
    assert Folder(tmp_path, format_="csv").summary[0].startswith("CSV: 3 pictures")


@pytest.mark.parametrize("other", [roboflow_coco, cvat, csv, label_studio])
def test_of_several_formats_with_the_same_objects_one_is_read(tmp_path: Path, other: Callable[[Path], str]) -> None:
    labelme(tmp_path)
    other(tmp_path)
    for file in tmp_path.rglob("images/**/*.jpg"):
        file.unlink()  # cvat writes its own copies
    folder = Folder(tmp_path)
    assert any("not read, since they have the same objects: " in line for line in folder.summary)
    assert (len(folder.train.files), len(folder.test.files)) == (2, 1)


def test_a_missing_format_is_refused(tmp_path: Path) -> None:
    csv(tmp_path)
    with pytest.raises(ValueError, match="no annotations of dataset.format=yolo; found csv"):
        Folder(tmp_path, format_="yolo")


def test_columns_can_be_named_by_options(tmp_path: Path) -> None:
    pictures(tmp_path)
    rows = ["photo,kind,l,t,r,b", "a.jpg,cat,1,2,9,8", "d.jpg,dog,1,2,9,8"]
    (tmp_path / "x.csv").write_text("\n".join(rows))
    with pytest.raises(ValueError, match="no annotations of a known format"):
        Folder(tmp_path)
    columns = {"picture": "photo", "class": "kind", "x1": "l", "y1": "t", "x2": "r", "y2": "B"}
    assert Folder(tmp_path, columns=columns).train.annotations[0].boxes.tolist() == [[1, 2, 9, 8]]
    with pytest.raises(ValueError, match="dataset.columns has the key 'colour'; expected keys from picture"):
        Folder(tmp_path, columns={**columns, "colour": "x"})
    with pytest.raises(ValueError, match="dataset.columns.class=sort: no such column; it has photo, kind"):
        Folder(tmp_path, columns={**columns, "class": "sort"})


def test_fractions_in_a_table_are_recognised(tmp_path: Path) -> None:
    pictures(tmp_path)
    (tmp_path / "x.csv").write_text("image,label,xmin,ymin,xmax,ymax\na.jpg,cat,0.25,0.2,0.75,0.8\nd.jpg,cat,0,0,1,1\n")
    folder = Folder(tmp_path)
    assert folder.train.annotations[0].boxes.tolist() == [pytest.approx([10, 6, 30, 24])]
    assert any("read as fractions" in line for line in folder.summary)


def replace_text(path: Path, was: str, now: str) -> None:
    text = path.read_text()
    assert was in text
    path.write_text(text.replace(was, now, 1))


@pytest.mark.parametrize(
    ("write", "file", "was", "now", "message"),
    [
        (yolo_data, "labels/train/a.txt", "0.500000", "nan", "line 1 has a box that is not finite"),
        (yolo_data, "labels/train/a.txt", "0.500000", "inf", "line 1 is '0 inf"),
        (yolo_data, "labels/train/a.txt", "0 0.5", "7 0.5", "line 1 has the class 7; expected 0 to 1"),
        (yolo_data, "labels/train/a.txt", "0.500000 0.5", "200 0.5", "pixels"),
        (yolo_data, "labels/train/a.txt", "0.500000 0.5", "0.5 left", "expected a class number and 4 fractions"),
        (yolo_data, "labels/train/a.txt", "\n", " 0.9\n", "line 1 has 6 numbers; expected 5"),
        (yolo_darknet, "classes.txt", "cat\ndog", "cat\ncat", "twice; name each class once"),
        (yolo_data, "data.yaml", "0: cat, 1: dog", "1: cat, 2: dog", "names has the keys"),
        (roboflow_coco, "train/_annotations.coco.json", '"bbox": [10,', '"bbox": [NaN,', "not finite"),
        (roboflow_coco, "train/_annotations.coco.json", '"bbox": [10,', '"bbox": [1e999,', "not finite"),
        (roboflow_coco, "train/_annotations.coco.json", "a.jpg", "gone.jpg", "names the picture gone.jpg"),
        (roboflow_coco, "test/_annotations.coco.json", '"cat"', '"cow"', "its categories are not those of"),
        (labelme, "train/a.json", "[[10, 6]", '[["x", 6]', "a point is"),
        (labelme, "train/a.json", "[[10, 6]", "[[NaN, 6]", "not finite"),
        (labelme, "train/a.json", '"label": "cat"', '"label": null', "its label is None"),
        (labelme, "train/a.json", '"imageHeight": 30', '"imageHeight": -3', "imageHeight is -3"),
        (cvat, "annotations.xml", 'xtl="10"', 'xtl="left"', "has no corners in numbers"),
        (cvat, "annotations.xml", 'xtl="10"', 'xtl="nan"', "not finite"),
        (cvat, "annotations.xml", 'xtl="10"', "", "has no corners in numbers"),
        (cvat, "annotations.xml", "<box", "<blob", "not readable as XML"),
        (cvat, "annotations.xml", 'width="40"', 'width="wide"', "its width is 'wide'"),
        (cvat, "annotations.xml", "a.jpg", "gone.jpg", "names the picture gone.jpg"),
        (label_studio, "project-1.json", '"x": 25.0', '"x": NaN', "not finite"),
        (label_studio, "project-1.json", '"x": 25.0', '"x": "25"', "its x, y, width, height is"),
        (label_studio, "project-1.json", "a.jpg", "gone.jpg", "its picture .* is not in"),
        (csv_without_head, "annotations.csv", "10,6", "nan,6", "not finite"),
        (csv_without_head, "annotations.csv", "0,0,20", "0,0,x", "expected four numbers"),
        (csv_without_head, "annotations.csv", "24,cat", "24,", "has a box but no class"),
        (csv_without_head, "annotations.csv", "a.jpg", "gone.jpg", "names the picture train/gone.jpg"),
        (csv_without_head, "annotations.csv", "30,24", "300,24", "lies outside the image of 40x30"),
        (open_images, "train-annotations-bbox.csv", "0.25", "nan", "not finite"),
        (open_images, "train-annotations-bbox.csv", "0.25", "left", "expected four fractions"),
    ],
)
def test_faults_name_the_file_and_the_position(
    tmp_path: Path, write: Callable[[Path], str], file: str, was: str, now: str, message: str
) -> None:
    write(tmp_path)
    replace_text(tmp_path / file, was, now)
    with pytest.raises(ValueError, match=message) as error:
        Folder(tmp_path)
    assert str(tmp_path / Path(file).parent) in str(error.value)


def test_yolo_without_class_names_is_refused(tmp_path: Path) -> None:
    yolo_data(tmp_path)
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(ValueError, match="no data.yaml or classes.txt names the classes"):
        Folder(tmp_path)


def test_yolo_pictures_without_a_file_have_no_objects(tmp_path: Path) -> None:
    yolo_data(tmp_path)
    (tmp_path / "labels/train/b c.txt").unlink()
    folder = Folder(tmp_path)
    assert [len(item.boxes) for item in folder.train.annotations] == [2, 0]
    assert "1 pictures have no text file and count as pictures without objects" in folder.summary


def test_label_studio_percents_are_of_the_present_picture(tmp_path: Path) -> None:
    """The picture was made smaller after the export. Its shape is the same, so the percents still fit."""
    label_studio(tmp_path)
    with Image.open(tmp_path / "train/a.jpg") as picture:
        picture.resize((20, 15)).save(tmp_path / "train/a.jpg")
    (boxes,) = (item.boxes for item in Folder(tmp_path).train.annotations if item.width == 20)
    assert boxes.tolist() == [[5, 3, 15, 12], [0, 0, 10, 7.5]]


def turn_by_exif(root: Path) -> None:
    """Let viewers turn all pictures by 90 degrees."""
    for name in TRUTH:
        path = next(root.rglob(f"{name}.jpg"))
        with Image.open(path) as picture:
            exif = picture.getexif()
            exif[0x0112] = 6
            picture.save(path, exif=exif)


def test_yolo_fractions_are_of_pictures_turned_as_exif_says(tmp_path: Path) -> None:
    yolo_data(tmp_path)
    turn_by_exif(tmp_path)
    folder = Folder(tmp_path)
    first = folder.train.annotations[0]
    assert (first.width, first.height) == (30, 40)
    assert first.boxes[0].tolist() == pytest.approx([10 * 3 / 4, 6 * 4 / 3, 30 * 3 / 4, 24 * 4 / 3], abs=1e-3)
    assert folder.train.image(0).shape == (3, 40, 30)


def test_label_studio_turns_pictures_as_exif_says(tmp_path: Path) -> None:
    """Label Studio shows and measures the turned picture. The file has 40x30 pixels, the boxes are of 30x40."""
    label_studio(tmp_path)
    text = (tmp_path / "project-1.json").read_text()
    text = text.replace('"original_width": 40, "original_height": 30', '"original_width": 30, "original_height": 40')
    (tmp_path / "project-1.json").write_text(text)
    turn_by_exif(tmp_path)
    folder = Folder(tmp_path)
    assert {(item.width, item.height) for item in folder.train.annotations} == {(30, 40)}
    assert folder.train.image(0).shape == (3, 40, 30)


def test_a_picture_annotated_by_two_files_is_refused(tmp_path: Path) -> None:
    roboflow_coco(tmp_path)
    content = (tmp_path / "train/_annotations.coco.json").read_text()
    (tmp_path / "train/again.json").write_text(content.replace('"bbox": [10', '"bbox": [16'))
    with pytest.raises(FaultyDataError, match=r"annotates train/a.jpg, as .*_annotations.coco.json does"):
        Folder(tmp_path)


@pytest.mark.parametrize("names", ["[010, yes]", "\n  0: 010\n  1: yes", "{'0': '010', '1': 'yes'}", "\n- 010\n- yes"])
def test_class_names_in_yaml_are_text(tmp_path: Path, names: str) -> None:
    """YAML's own types would turn them into 8 and True."""
    yolo_data(tmp_path)
    (tmp_path / "data.yaml").write_text(f"train: images/train\nval: images/test\nnc: 2\nnames: {names}\n")
    assert Folder(tmp_path).train.classes == ("010", "yes")


def test_the_attribute_of_via_that_names_the_class_can_be_chosen(tmp_path: Path) -> None:
    via(tmp_path)
    for file in tmp_path.glob("*.json"):
        text = file.read_text()
        file.write_text(text.replace('"region_attributes": {"kind"', '"region_attributes": {"sex": "f", "kind"'))
    with pytest.raises(ValueError, match=r"attributes sex \(4\), kind \(4\); choose .* dataset.columns.class=sex"):
        Folder(tmp_path)
    assert Folder(tmp_path, columns={"class": "kind"}).train.classes == ("cat", "dog")
    with pytest.raises(ValueError, match="region 0: its age is None; expected one class name"):
        Folder(tmp_path, columns={"class": "age"})


@pytest.mark.parametrize(
    ("was", "now", "message"),
    [
        ('"kind"', '"class"', None),
        ('"cat"', '{"cat": true, "dog": false}', None),
        ('"cat"', '{"cat": true, "dog": true}', "expected one class name"),
        ('"region_attributes": {"kind": "cat"}', '"region_attributes": {}', "its kind is None"),
        ('"x": 10', '"x": "10"', "its x, y, width, height is"),
        ('"all_points_x": [0, 20, 20]', '"all_points_x": [0, 20]', "its points is"),
        ('"name": "rect"', '"name": "cube"', "unknown shape 'cube'"),
        ('"regions": [', '"regions": 7, "x": [', "expected a filename and a list of regions"),
    ],
)
def test_via_is_read_or_refused(tmp_path: Path, was: str, now: str, message: str | None) -> None:
    via(tmp_path)
    for file in tmp_path.glob("*.json"):
        file.write_text(file.read_text().replace(was, now))
    if message is None:
        assert Folder(tmp_path).train.classes == ("cat", "dog")
    else:
        with pytest.raises(ValueError, match=rf"(?s)via_t.*.json.*{message}"):
            Folder(tmp_path)


def test_round_shapes_of_via_have_the_box_around_them(tmp_path: Path) -> None:
    via(tmp_path)
    shapes: list[dict[str, Any]] = [{"name": "circle", "cx": 20, "cy": 15, "r": 5}]
    shapes.append({"name": "ellipse", "cx": 20, "cy": 15, "rx": 10, "ry": 4, "theta": 1.5707963})
    regions = [{"shape_attributes": shape, "region_attributes": {"kind": "cat"}} for shape in shapes]
    (tmp_path / "via_test.json").write_text(json.dumps({"d": {"filename": "d.jpg", "regions": regions}}))
    boxes = Folder(tmp_path).test.annotations[0].boxes
    assert boxes[0].tolist() == [15, 10, 25, 20]
    assert boxes[1].tolist() == pytest.approx([16, 5, 24, 25], abs=1e-3)
