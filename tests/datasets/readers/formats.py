"""One data set in the format of each annotation tool: two pictures in train, one in test."""

from __future__ import annotations

import json
from collections.abc import Callable
from csv import writer as csv_writer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 40, 30
# The axis-aligned boxes (x1, y1, x2, y2) of each picture, half-open.
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
    """Folders by role, then by split. data.yaml names them."""
    pictures(root, "images")
    for name in TRUTH:
        path = root / "labels" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yolo_lines(name))
    (root / "data.yaml").write_text("train: ../images/train\nval: images/test\nnames: {0: cat, 1: dog}\n")
    return "YOLO folder: 3 pictures, 2 classes named in data.yaml"


def yolo_roboflow(root: Path) -> str:
    """Folders by split, then by role, with the older list of names."""
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
    """Text files beside the pictures, classes.txt, polygons in place of boxes."""
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
    return "LabelMe folder: 3 pictures with one JSON file each"


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
    """One table per split, as in TensorFlow's tutorials."""
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
    """Semicolons, a split column, corner and size in place of two corners, and pictures named without suffix."""
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


def via_regions(name: str) -> list[dict[str, Any]]:
    """Return the objects of a picture as a polygon and a rectangle, and a point."""
    regions = []
    for place, (label, (x1, y1, x2, y2)) in enumerate(TRUTH[name]):
        shape: dict[str, Any] = {"name": "rect", "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
        if place:
            shape = {"name": "polygon", "all_points_x": [x1, x2, x2], "all_points_y": [y1, y1, y2]}
        regions.append({"shape_attributes": shape, "region_attributes": {"kind": label}})
    return [*regions, {"shape_attributes": {"name": "point", "cx": 1, "cy": 1}, "region_attributes": {}}]


def via(root: Path) -> str:
    """A project of VIA 2 for one split, regions as VIA 1 writes them for the other."""
    pictures(root)
    for split in ("train", "test"):
        content = {}
        for name in TRUTH:
            if name.startswith(split):
                regions: Any = via_regions(name)
                if split == "test":
                    regions = {str(place): region for place, region in enumerate(regions)}
                file = f"{name.split('/')[1]}.jpg"
                content[f"{file}99"] = {"filename": file, "size": 99, "regions": regions, "file_attributes": {}}
        project = {"_via_settings": {}, "_via_img_metadata": content} if split == "train" else content
        (root / f"via_{split}.json").write_text(json.dumps(project))
    return "VIA: 3 pictures, via_test.json, via_train.json, class from 'kind'"


def via_csv(root: Path) -> str:
    pictures(root)
    for split in ("train", "test"):
        with (root / f"via_{split}.csv").open("w", newline="") as file:
            head = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
            table = csv_writer(file)
            table.writerow(head.split(","))
            for name in TRUTH:
                for place, item in enumerate(via_regions(name) if name.startswith(split) else ()):
                    shape, attributes = json.dumps(item["shape_attributes"]), json.dumps(item["region_attributes"])
                    table.writerow([f"{name.split('/')[1]}.jpg", 99, "{}", 9, place, shape, attributes])
    return "VIA: 3 pictures, via_test.csv, via_train.csv, class from 'kind'"


def labelimg(root: Path) -> str:
    """VOC's XML beside the pictures; corners count from 1 and are inclusive."""
    pictures(root)
    for name, objects in TRUTH.items():
        items = "".join(
            f"<object><name>{label}</name><difficult>0</difficult><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
            f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for label, (x1, y1, x2, y2) in objects
        )
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        (root / f"{name}.xml").write_text(f"<annotation><filename>x.jpg</filename>{size}{items}</annotation>")
    return "LabelImg folder: 3 pictures, XML beside them"


def voc(root: Path) -> str:
    """VOC's folders with image lists."""
    labelimg(root)
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split in ("train", "test"):
        names = sorted(path.stem for path in (root / split).glob("*.xml"))
        (root / f"ImageSets/Main/{split}.txt").write_text("\n".join(names))
        for path in (root / split).iterdir():
            path.rename(root / ("Annotations" if path.suffix == ".xml" else "JPEGImages") / path.name)
        (root / split).rmdir()
    return "VOC tree: 3 pictures, image lists test, train"


FORMATS: list[Callable[[Path], str]] = [
    labelimg, voc, roboflow_coco, published_coco, yolo_data, yolo_roboflow, yolo_darknet, labelme, cvat, label_studio,
    label_studio_min, csv, csv_without_head, csv_of_sizes, open_images, via, via_csv,
]  # fmt: skip
