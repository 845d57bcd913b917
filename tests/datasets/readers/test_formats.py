"""One truth, as each tool writes it: two pictures in train, one in test, and every reader gives the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detector.datasets.faults import FaultyDataError
from detector.datasets.folder import Folder

WIDTH, HEIGHT = 40, 30
# The upright boxes (x1, y1, x2, y2) of each picture, half-open.
TRUTH: dict[str, list[tuple[str, tuple[float, float, float, float]]]] = {
    "train/a": [("cat", (10, 6, 30, 24)), ("dog", (0, 0, 20, 15))],
    "train/b c": [("cat", (2, 3, 38, 27))],
    "test/d": [("dog", (4, 6, 40, 30))],
}


def pictures(root: Path, folder: str = "") -> None:
    for number, name in enumerate(TRUTH):
        path = root / folder / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(pixels).save(path)


def coco_content(split: str) -> dict[str, Any]:
    names = [name for name in TRUTH if name.startswith(split)]
    boxes = [(place, name, box) for place, item in enumerate(names) for name, box in TRUTH[item]]
    return {
        "info": {"description": "x"},
        "images": [
            {"id": place, "file_name": f"{name.split('/')[1]}.jpg", "width": WIDTH, "height": HEIGHT}
            for place, name in enumerate(names)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": place,
                "category_id": 5 if name == "cat" else 9,
                "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            }
            for number, (place, name, box) in enumerate(boxes)
        ],
        "categories": [{"id": 9, "name": "dog"}, {"id": 5, "name": "cat"}],
    }


def roboflow_coco(root: Path) -> str:
    pictures(root)
    for split in ("train", "test"):
        (root / split / "_annotations.coco.json").write_text(json.dumps(coco_content(split)))
    return "COCO JSON: 3 pictures, test/_annotations.coco.json, train/_annotations.coco.json"


def published_coco(root: Path) -> str:
    pictures(root, "images")
    (root / "annotations").mkdir()
    for split in ("train", "test"):
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(coco_content(split)))
        (root / f"annotations/captions_{split}2017.json").write_text(json.dumps({"images": [], "annotations": []}))
    return "COCO JSON: 3 pictures, annotations/instances_test2017.json, annotations/instances_train2017.json"


def yolo_lines(name: str) -> str:
    lines = []
    for label, (x1, y1, x2, y2) in TRUTH[name]:
        middle = ((x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT)
        numbers = (*middle, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT)
        lines.append(f"{int(label == 'dog')} {' '.join(f'{value:.6f}' for value in numbers)}\n")
    return "".join(lines)


def yolo_data(root: Path) -> str:
    """Folders by role, then by split; data.yaml points at them."""
    pictures(root, "images")
    for name in TRUTH:
        path = root / "labels" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yolo_lines(name))
    (root / "data.yaml").write_text("train: ../images/train\nval: images/test\nnames: {0: cat, 1: dog}\n")
    return "YOLO folder: 3 pictures, 2 classes named in data.yaml"


def yolo_roboflow(root: Path) -> str:
    """Folders by split, then by role; the older list of names."""
    for number, name in enumerate(TRUTH):
        split, stem = name.split("/")
        path = root / split / "images" / f"{stem}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 40 * number + 20, np.uint8)).save(path)
        (root / split / "labels").mkdir(exist_ok=True)
        (root / split / "labels" / f"{stem}.txt").write_text(yolo_lines(name))
    (root / "data.yaml").write_text("train: ../train/images\nval: ../test/images\nnc: 2\nnames: ['cat', 'dog']\n")
    return "YOLO folder: 3 pictures, 2 classes named in data.yaml"


def yolo_darknet(root: Path) -> str:
    """Text files beside the pictures, classes.txt, polygons for boxes."""
    pictures(root)
    for name in TRUTH:
        lines = [
            f"{int(label == 'dog')} {x1 / WIDTH} {y1 / HEIGHT} {x2 / WIDTH} {y1 / HEIGHT} "
            f"{x2 / WIDTH} {y2 / HEIGHT} {x1 / WIDTH} {y2 / HEIGHT}"
            for label, (x1, y1, x2, y2) in TRUTH[name]
        ]
        (root / f"{name}.txt").write_text("\n".join(lines))
    (root / "classes.txt").write_text("cat\ndog\n")
    return "YOLO folder: 3 pictures, 2 classes named in classes.txt"


def labelme(root: Path) -> str:
    pictures(root)
    for name, objects in TRUTH.items():
        shapes = []
        for place, (label, (x1, y1, x2, y2)) in enumerate(objects):
            corners = [[x2, y1], [x1, y2]] if place else [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]
            kind = "rectangle" if place else "polygon"
            shapes.append({"label": label, "points": corners, "shape_type": kind, "flags": {}, "group_id": None})
        shapes.append({"label": "cat", "points": [[3, 3]], "shape_type": "point"})
        content = {"version": "5.0", "flags": {}, "shapes": shapes, "imagePath": f"..\\x\\{name.split('/')[1]}.jpg"}
        content |= {"imageData": None, "imageHeight": HEIGHT, "imageWidth": WIDTH}
        (root / f"{name}.json").write_text(json.dumps(content))
    return "LabelMe folder: 3 pictures, a JSON file each"


def cvat(root: Path) -> str:
    pictures(root, "images")
    images = []
    for number, (name, objects) in enumerate(TRUTH.items()):
        shapes = ""
        for place, (label, (x1, y1, x2, y2)) in enumerate(objects):
            if place:
                points = f"{x1},{y1};{x2},{y1};{x2},{y2};{x1},{y2}"
                shapes += f'<polygon label="{label}" points="{points}" occluded="0"></polygon>'
            else:
                corners = f'xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}"'
                shapes += (
                    f'<box label="{label}" {corners} occluded="1"><attribute name="difficult">true</attribute></box>'
                )
        split, stem = name.split("/")
        size = f'width="{WIDTH}" height="{HEIGHT}"'
        images.append(f'<image id="{number}" name="{stem}.jpg" subset="{split.title()}" {size}>{shapes}</image>')
    head = '<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta></meta>'
    (root / "annotations.xml").write_text(f"{head}{''.join(images)}</annotations>")
    return "CVAT XML: 3 pictures, annotations.xml"


def studio_tasks(*, small: bool) -> list[dict[str, Any]]:
    tasks = []
    for number, (name, objects) in enumerate(TRUTH.items()):
        results = []
        for label, (x1, y1, x2, y2) in objects:
            value = {"x": x1 * 100 / WIDTH, "y": y1 * 100 / HEIGHT, "width": (x2 - x1) * 100 / WIDTH}
            value |= {"height": (y2 - y1) * 100 / HEIGHT, "rotation": 0, "rectanglelabels": [label]}
            size = {"original_width": WIDTH, "original_height": HEIGHT}
            results.append({**value, **size} if small else {"type": "rectanglelabels", "value": value, **size})
        stem = name.split("/")[1].replace(" ", "%20")
        image = f"/data/upload/1/0a1b2c3d-{stem}.jpg" if number else f"/data/local-files/?d=photos/{name}.jpg"
        if small:
            tasks.append({"id": number, "image": image, "label": results, "annotator": 1})
        else:
            done = [{"was_cancelled": True, "result": []}, {"result": results}]
            tasks.append({"id": number, "data": {"image": image}, "annotations": done})
    return tasks


def label_studio(root: Path) -> str:
    pictures(root)
    (root / "project-1.json").write_text(json.dumps(studio_tasks(small=False)))
    return "Label Studio JSON: 3 pictures, project-1.json"


def label_studio_min(root: Path) -> str:
    pictures(root)
    (root / "project-1.json").write_text(json.dumps(studio_tasks(small=True)))
    return "Label Studio JSON: 3 pictures, project-1.json"


def csv(root: Path) -> str:
    """As TensorFlow's tutorials have it: a table for each split."""
    pictures(root)
    for split in ("train", "test"):
        rows = [
            f"{name.split('/')[1]}.jpg,{WIDTH},{HEIGHT},{label},{','.join(map(str, box))}"
            for name, objects in TRUTH.items()
            for label, box in objects
            if name.startswith(split)
        ]
        (root / f"{split}_labels.csv").write_text(
            "\n".join(["filename,width,height,class,xmin,ymin,xmax,ymax", *rows]), encoding="utf-16"
        )
    return "CSV: 3 pictures, test_labels.csv, train_labels.csv"


def csv_without_head(root: Path) -> str:
    pictures(root)
    rows = [
        f"{name}.jpg,{','.join(map(str, box))},{label}" for name, objects in TRUTH.items() for label, box in objects
    ]
    (root / "annotations.csv").write_text("\n".join(rows))
    return "CSV: 3 pictures, annotations.csv"


def csv_of_sizes(root: Path) -> str:
    """Semicolons, a column for the split, corner and size, and a picture without objects."""
    pictures(root, "all")
    rows = [
        f"{name.split('/')[0]};{label};{x1};{y1};{x2 - x1};{y2 - y1};{name.split('/')[1]}"
        for name, objects in TRUTH.items()
        for label, (x1, y1, x2, y2) in objects
    ]
    (root / "boxes.csv").write_text("\n".join(["Split;Label;X;Y;W;H;Image", *rows]))
    return "CSV: 3 pictures, boxes.csv"


def open_images(root: Path) -> str:
    pictures(root)
    (root / "class-descriptions-boxable.csv").write_text("/m/01,cat\n/m/02,dog\n")
    head = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf"
    for split in ("train", "test"):
        rows = [
            f"{name.split('/')[1]},xclick,/m/0{1 + (label == 'dog')},1,{x1 / WIDTH},{x2 / WIDTH},{y1 / HEIGHT},"
            f"{y2 / HEIGHT},0,1,0"
            for name, objects in TRUTH.items()
            for label, (x1, y1, x2, y2) in objects
            if name.startswith(split)
        ]
        (root / f"{split}-annotations-bbox.csv").write_text("\n".join([head, *rows, rows[0].replace("a,", "gone,", 1)]))
    return "Open Images CSV: 3 pictures, test-annotations-bbox.csv, train-annotations-bbox.csv"


FORMATS: list[Callable[[Path], str]] = [
    roboflow_coco, published_coco, yolo_data, yolo_roboflow, yolo_darknet, labelme, cvat, label_studio,
    label_studio_min, csv, csv_without_head, csv_of_sizes,
]  # fmt: skip


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
def test_every_format_gives_the_same_truth(tmp_path: Path, write: Callable[[Path], str]) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    told = write(root)
    folder = Folder(root)
    assert folder.told[0] == told
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


def test_open_images_leaves_out_what_is_not_there(tmp_path: Path) -> None:
    told = open_images(tmp_path)
    (tmp_path / "test-annotations-bbox.csv").write_text(
        (tmp_path / "test-annotations-bbox.csv").read_text().replace("d,xclick", "gone,xclick", 1)
        + "\nd,xclick,/m/02,1,0.1,1,0.2,1,0,1,1"
    )
    folder = Folder(tmp_path)
    assert folder.told[0] == told
    assert "1 pictures of the tables are not there and are left out" in folder.told
    assert folder.train.classes == ("cat", "dog")
    first = folder.train.annotations[0]
    assert first.boxes[0].tolist() == pytest.approx([10, 6, 30, 24])
    assert first.truncated.all()
    assert not first.occluded.any()
    assert folder.test.annotations[0].difficult.tolist()[-1] is True


def test_flags_of_cvat(tmp_path: Path) -> None:
    cvat(tmp_path)
    first = Folder(tmp_path).train.annotations[0]
    assert first.difficult.tolist() == [True, False]
    assert first.occluded.tolist() == [True, False]


def test_points_are_passed_over_and_told(tmp_path: Path) -> None:
    labelme(tmp_path)
    assert "shapes that are no boxes are passed over: point (3)" in Folder(tmp_path).told


def test_several_annotations_of_one_task(tmp_path: Path) -> None:
    pictures(tmp_path)
    tasks = studio_tasks(small=False)
    tasks[0]["annotations"].append({"result": []})
    tasks.append({"id": 9, "data": {"image": "later.jpg"}, "annotations": []})
    (tmp_path / "x.json").write_text(json.dumps(tasks))
    told = Folder(tmp_path).told
    assert "1 tasks are annotated several times; the first annotation is taken" in told
    assert "1 tasks are not annotated and are left out" in told


def test_several_formats_are_refused_with_their_names(tmp_path: Path) -> None:
    labelme(tmp_path)
    csv(tmp_path)
    with pytest.raises(ValueError, match=r"several formats: labelme \(.*and 2 more\); csv \(.*dataset.format=labelme"):
        Folder(tmp_path)
    assert Folder(tmp_path, format_="csv").told[0].startswith("CSV: 3 pictures")


def test_a_format_that_is_not_there(tmp_path: Path) -> None:
    csv(tmp_path)
    with pytest.raises(ValueError, match="no annotations of dataset.format=yolo; there is csv"):
        Folder(tmp_path, format_="yolo")


def test_columns_by_options(tmp_path: Path) -> None:
    pictures(tmp_path)
    rows = ["photo,kind,l,t,r,b", "a.jpg,cat,1,2,9,8", "d.jpg,dog,1,2,9,8"]
    (tmp_path / "x.csv").write_text("\n".join(rows))
    with pytest.raises(ValueError, match="no annotations of a known format"):
        Folder(tmp_path)
    columns = {"picture": "photo", "class": "kind", "x1": "l", "y1": "t", "x2": "r", "y2": "B"}
    assert Folder(tmp_path, columns=columns).train.annotations[0].boxes.tolist() == [[1, 2, 9, 8]]
    with pytest.raises(ValueError, match="dataset.columns has the key 'colour'; expected some of picture"):
        Folder(tmp_path, columns={**columns, "colour": "x"})
    with pytest.raises(ValueError, match="dataset.columns.class=sort: no such column; it has photo, kind"):
        Folder(tmp_path, columns={**columns, "class": "sort"})


def test_fractions_in_a_table(tmp_path: Path) -> None:
    pictures(tmp_path)
    (tmp_path / "x.csv").write_text("image,label,xmin,ymin,xmax,ymax\na.jpg,cat,0.25,0.2,0.75,0.8\nd.jpg,cat,0,0,1,1\n")
    folder = Folder(tmp_path)
    assert folder.train.annotations[0].boxes.tolist() == [pytest.approx([10, 6, 30, 24])]
    assert any("taken for fractions" in line for line in folder.told)


def spoil(path: Path, was: str, now: str) -> None:
    text = path.read_text()
    assert was in text
    path.write_text(text.replace(was, now, 1))


@pytest.mark.parametrize(
    ("write", "file", "was", "now", "said"),
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
        (label_studio, "project-1.json", "a.jpg", "gone.jpg", "names no picture below"),
        (csv_without_head, "annotations.csv", "10,6", "nan,6", "not finite"),
        (csv_without_head, "annotations.csv", "0,0,20", "0,0,x", "expected four numbers"),
        (csv_without_head, "annotations.csv", "24,cat", "24,", "has a box and no class"),
        (csv_without_head, "annotations.csv", "a.jpg", "gone.jpg", "names the picture train/gone.jpg"),
        (csv_without_head, "annotations.csv", "30,24", "300,24", "lies outside the image of 40x30"),
        (open_images, "train-annotations-bbox.csv", "0.25", "nan", "not finite"),
        (open_images, "train-annotations-bbox.csv", "0.25", "left", "expected four fractions"),
    ],
)
def test_faults_name_the_file_and_the_place(
    tmp_path: Path, write: Callable[[Path], str], file: str, was: str, now: str, said: str
) -> None:
    write(tmp_path)
    spoil(tmp_path / file, was, now)
    with pytest.raises(ValueError, match=said) as error:
        Folder(tmp_path)
    assert str(tmp_path / Path(file).parent) in str(error.value)


def test_yolo_without_names(tmp_path: Path) -> None:
    yolo_data(tmp_path)
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(ValueError, match="no data.yaml or classes.txt names them"):
        Folder(tmp_path)


def test_yolo_pictures_without_a_file_have_no_objects(tmp_path: Path) -> None:
    yolo_data(tmp_path)
    (tmp_path / "labels/train/b c.txt").unlink()
    folder = Folder(tmp_path)
    assert [len(item.boxes) for item in folder.train.annotations] == [2, 0]
    assert "1 pictures have no text file and count as pictures without objects" in folder.told


def test_a_picture_that_two_files_annotate(tmp_path: Path) -> None:
    roboflow_coco(tmp_path)
    (tmp_path / "train/again.json").write_text((tmp_path / "train/_annotations.coco.json").read_text())
    with pytest.raises(FaultyDataError, match=r"annotates train/a.jpg, as .*_annotations.coco.json does"):
        Folder(tmp_path)
