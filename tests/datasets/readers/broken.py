"""Faults that real exports have, each made in an intact folder of three pictures.

`FAULTS` lists (format, name of the fault, change, expected message). The message is an error, a warning or a line
about how the folder was read. None: the folder is read as if it were intact.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tests.datasets.readers import formats

Change = Callable[[Path], None]


class Fault(NamedTuple):
    """One fault of a folder."""

    write: Callable[[Path], str]
    name: str
    change: Change
    message: str | None  # a regular expression; None: the folder is read as if it were intact


def put(file: str, content: bytes | str) -> Change:
    """Replace the content of a file."""
    return lambda root: _write(root / file, content)


def edit(file: str, was: str, now: str, count: int = 1) -> Change:
    """Replace the first `count` matches of the regular expression `was` by `now` (0: all matches)."""

    def change(root: Path) -> None:
        content = (root / file).read_text(encoding="utf-8")
        changed = re.sub(was, lambda _: now, content, count=count)
        assert changed != content
        _write(root / file, changed.encode("utf-8", "surrogateescape"))

    return change


def recode(file: str, encoding: str, head: bytes = b"", line: str = "\n") -> Change:
    """Write a file in another encoding, or with other line ends."""

    def change(root: Path) -> None:
        text = (root / file).read_text(encoding="utf-8").replace("\n", line)
        _write(root / file, head + text.encode(encoding))

    return change


def remove(file: str) -> Change:
    return lambda root: (root / file).unlink()


def directory(file: str) -> Change:
    """Replace a file by a folder."""

    def change(root: Path) -> None:
        (root / file).unlink()
        (root / file).mkdir()

    return change


def move(file: str, to: str) -> Change:
    def change(root: Path) -> None:
        (root / to).parent.mkdir(parents=True, exist_ok=True)
        (root / file).rename(root / to)

    return change


def link(file: str, to: str) -> Change:
    """Make a link. It replaces a file of this name."""

    def change(root: Path) -> None:
        (root / file).unlink(missing_ok=True)
        os.symlink(to, root / file)

    return change


def cut(file: str, share: float) -> Change:
    """Keep only the first part of a file."""
    return lambda root: _write(root / file, (root / file).read_bytes()[: int((root / file).stat().st_size * share)])


def both(*changes: Change) -> Change:
    def change(root: Path) -> None:
        for one in changes:
            one(root)

    return change


def as_json(file: str, change_content: Callable[[Any], object]) -> Change:
    """Change the content of a JSON file. The function may change it in place or return the new content."""

    def change(root: Path) -> None:
        content = json.loads((root / file).read_text(encoding="utf-8"))
        content = change_content(content) or content
        _write(root / file, json.dumps(content))

    return change


def picture(file: str, kind: str, size: tuple[int, int] = (formats.WIDTH, formats.HEIGHT), mode: str = "RGB") -> Change:
    """Replace a picture by one of another kind under the same name. GIF, PNG and TIFF get two frames."""

    def change(root: Path) -> None:
        shape = (size[1], size[0], len(mode)) if len(mode) > 1 else (size[1], size[0])
        frames = [
            Image.fromarray(np.random.default_rng(seed).integers(0, 255, shape, np.uint8), mode if mode != "P" else "L")
            for seed in (7, 8)
        ]
        changed = io.BytesIO()
        moving = {"save_all": True, "append_images": frames[1:]} if kind in ("GIF", "PNG", "TIFF") else {}
        frames[0].save(changed, kind, **moving)
        _write(root / file, changed.getvalue())

    return change


def _write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def pipe(file: str) -> Change:
    """Make a named pipe, from which reading never ends."""
    return lambda root: os.mkfifo(root / file)


def keypoints(shape: str, more: str) -> Change:
    """Put keypoints after the boxes of a YOLO folder, and their shape into data.yaml."""

    def change(root: Path) -> None:
        for file in root.glob("labels/*/*.txt"):
            _write(file, "".join(f"{line} {more}\n" for line in file.read_text().splitlines()))
        _write(root / "data.yaml", f"kpt_shape: {shape}\n{(root / 'data.yaml').read_text()}")

    return change


def box_sizes(root: Path) -> None:
    """Write the size of each box into the columns width and height of a table, as some tools do."""
    for file in root.glob("*.csv"):
        head, *rows = file.read_text(encoding="utf-16").splitlines()
        for place, row in enumerate(rows):
            name, _, _, label, *corners = row.split(",")
            x1, y1, x2, y2 = map(int, corners)
            rows[place] = ",".join([name, str(x2 - x1), str(y2 - y1), label, *corners])
        file.write_text("\n".join([head, *rows]))


def boxes_in_columns(head: str, box: str) -> Change:
    """Replace the corners in the tables by other columns."""

    def change(root: Path) -> None:
        for file in root.glob("*.csv"):
            rows = [row.split(",") for row in file.read_text(encoding="utf-16").splitlines()[1:]]
            lines = [f"filename,{head},class"]
            for name, _, _, label, *corners in rows:
                x1, y1, x2, y2 = map(int, corners)
                values = {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "w": x2 - x1, "h": y2 - y1}
                lines.append(f"{name},{box.format(**values, cx=(x1 + x2) / 2, cy=(y1 + y2) / 2)},{label}")
            _write(file, "\n".join(lines))

    return change


def boxes_in_a_cell(box: str) -> Change:
    """Put the four numbers of a box into one cell."""
    return boxes_in_columns("bbox", f'"{box}"')


def _first(key: str, **values: Any) -> Callable[[Any], None]:
    """Change the first entry of a list in a JSON object. None removes a key."""

    def change(content: Any) -> None:
        content[key][0].update(values)
        for name, value in values.items():
            if value is None:
                del content[key][0][name]

    return change


def _names_as_addresses(content: Any) -> None:
    for item in content["images"]:
        name = item["file_name"].replace("b c", "b%20d")
        item["file_name"] = f"https://host.org/x/{name}?size=2" if name == "a.jpg" else name


def flat_label(file: str, content: str | None = None) -> Change:
    """Write one more text file for the picture train/a.jpg of a YOLO folder: a copy, or other content."""
    return lambda root: _write(root / file, content or (root / "labels/train/a.txt").read_bytes())


TRAIN_COCO = "train/_annotations.coco.json"
RLE = {"size": [30, 40], "counts": "abc"}
FOLDERS = ("Annotations", "JPEGImages", "ImageSets")
FILES = (("Annotations", "xml"), ("JPEGImages", "jpg"))
POLYGON = [[10, 6, 30, 6, 30, 24, 10, 24]]

VOC = [
    Fault(formats.labelimg, "BOM before the declaration", recode("train/a.xml", "utf-8", b"\xef\xbb\xbf"), None),
    Fault(formats.labelimg, "Windows line ends", edit("train/a.xml", "><", ">\r\n<", 0), None),
    Fault(formats.labelimg, "empty file", put("train/a.xml", b""), r"train/a\.xml"),
    Fault(formats.labelimg, "zeros after a crash", put("train/a.xml", b"\0" * 300), r"train/a\.xml"),
    Fault(formats.labelimg, "cut off", cut("train/a.xml", 0.6), r"train/a\.xml: not readable as XML"),
    Fault(formats.labelimg, "folder in place of a file", directory("train/a.xml"), "have no annotation"),
    Fault(formats.labelimg, "broken link", link("train/a.xml", "gone.xml"), r"train/a\.xml"),
    Fault(formats.labelimg, "link to itself", link("train/a.xml", "a.xml"), r"train/a\.xml"),
    Fault(formats.labelimg, "link to the parent folder", link("train/loop", ".."), None),
    Fault(
        formats.labelimg,
        "Git LFS pointer",
        put("train/a.xml", "version https://git-lfs.github.com/spec/v1\n"),
        r"train/a\.xml",
    ),
    Fault(
        formats.labelimg, "huge <size>", edit("train/a.xml", "<width>40", "<width>" + "9" * 30), r"train/a\.(xml|jpg)"
    ),
    Fault(
        formats.labelimg,
        "swapped <size>",
        edit("train/a.xml", "<width>40</width><height>30", "<width>30</width><height>40"),
        r"train/a\.jpg: the image is 40x30, its annotation says 30x40",
    ),
    Fault(
        formats.labelimg,
        "swapped corners",
        edit("train/a.xml", "<xmin>11</xmin>", "<xmin>31</xmin>"),
        r"train/a\.xml: object 0 .*inverted",
    ),
    Fault(formats.labelimg, "negative corner", edit("train/a.xml", "<ymin>7<", "<ymin>-7<"), r"train/a\.xml: object 0"),
    Fault(
        formats.labelimg,
        "fractions in place of pixels",
        both(
            *(
                edit(
                    f"{name}.xml",
                    "<bndbox>.*?</bndbox>",
                    "<bndbox><xmin>0.1</xmin><ymin>0.2</ymin><xmax>0.8</xmax><ymax>0.9</ymax></bndbox>",
                    0,
                )
                for name in formats.TRUTH
            )
        ),
        r"test/d\.xml: object 0 .*fractions",
    ),
    Fault(
        formats.labelimg, "decimal comma", edit("train/a.xml", "<xmin>11<", "<xmin>11,5<"), r"train/a\.xml: object 0"
    ),
    Fault(formats.labelimg, "no name", edit("train/a.xml", "<name>cat</name>", ""), r"train/a\.xml: object 0"),
    Fault(formats.labelimg, "name with spaces around it", edit("train/a.xml", "<name>cat<", "<name>\n cat \t<"), None),
    Fault(formats.labelimg, "undeclared entity", edit("train/a.xml", "cat", "c&eacute;t"), r"train/a\.xml"),
    Fault(formats.labelimg, "two pictures with one stem", picture("train/a.png", "PNG"), r"train/a\.png"),
    Fault(
        formats.labelimg,
        "upper-case suffixes",
        both(move("train/a.xml", "train/a.XML"), move("train/a.jpg", "train/a.JPG")),
        None,
    ),
    Fault(formats.labelimg, "annotation without picture", remove("train/a.jpg"), r"train/a\.xml: no picture"),
    Fault(
        formats.labelimg,
        "segmentation file",
        edit("train/a.xml", "<bndbox>.*?</bndbox>", "<polygon><x1>1</x1></polygon>"),
        r"train/a\.xml: object 0",
    ),
    Fault(formats.voc, "spaces and tabs after the ids", put("ImageSets/Main/train.txt", "a \t\r\nb c\t\r\n\r\n"), None),
    Fault(formats.voc, "an id twice", put("ImageSets/Main/train.txt", "a\na\nb c\n"), None),
    Fault(
        formats.voc,
        "an id that is an absolute path",
        put("ImageSets/Main/train.txt", "a\n/etc/x\nb c\n"),
        r"ImageSets/Main/train\.txt lists",
    ),
    Fault(
        formats.voc,
        "an id that leaves the folder",
        put("ImageSets/Main/train.txt", "a\n../../x\nb c\n"),
        r"ImageSets/Main/train\.txt lists",
    ),
    Fault(formats.voc, "empty list", put("ImageSets/Main/train.txt", "\n"), r"train\.txt: the image list is empty"),
    Fault(
        formats.voc, "folder for a list", directory("ImageSets/Main/train.txt"), "1 pictures, .*expected two or more"
    ),
    Fault(formats.voc, "list of numbers for names", put("ImageSets/Main/train.txt", "0\n1\n"), r"train\.txt lists"),
    Fault(
        formats.voc, "picture in both lists", put("ImageSets/Main/test.txt", "a\nd\n"), "in train and in test .first: a"
    ),
    Fault(
        formats.voc,
        "a list named valid",
        move("ImageSets/Main/test.txt", "ImageSets/Main/valid.txt"),
        r"2 pictures to train on .train., 1 to test on .val.",
    ),
    Fault(
        formats.voc,
        "lists in capitals",
        both(
            move("ImageSets/Main/test.txt", "ImageSets/Main/Test.TXT"),
            move("ImageSets/Main/train.txt", "ImageSets/Main/TRAIN.txt"),
        ),
        r"2 pictures to train on .train., 1 to test on .test.",
    ),
    Fault(
        formats.voc,
        "accents in two forms",
        both(
            move("Annotations/a.xml", f"Annotations/{unicodedata.normalize('NFD', 'é')}.xml"),
            move("JPEGImages/a.jpg", f"JPEGImages/{unicodedata.normalize('NFD', 'é')}.jpg"),
            put("ImageSets/Main/train.txt", "é\nb c\n"),
        ),
        None,
    ),
    Fault(
        formats.voc,
        "a picture in no list",
        picture("JPEGImages/x.jpg", "JPEG"),
        r"1 pictures are in no image list and are left out .first: JPEGImages/x\.jpg",
    ),
    Fault(
        formats.voc,
        "folders in small letters",
        both(
            *(move(folder, f"x{folder.lower()}") for folder in FOLDERS),
            *(move(f"x{folder.lower()}", folder.lower()) for folder in FOLDERS),
        ),
        r"VOC tree: 3 pictures.*2 pictures to train on .train., 1 to test on .test.",
    ),
    Fault(
        formats.voc,
        "folders below Annotations, as in CVAT",
        both(
            *(move(f"{folder}/a.{suffix}", f"{folder}/x/a.{suffix}") for folder, suffix in FILES),
            *(move(f"{folder}/d.{suffix}", f"{folder}/y/a.{suffix}") for folder, suffix in FILES),
            put("ImageSets/Main/train.txt", 'x/a\n"b c"\n'),
            put("ImageSets/Main/test.txt", "y/a\n"),
        ),
        r"2 pictures to train on .train., 1 to test on .test.",
    ),
    Fault(
        formats.voc,
        "lists for segmentation only, masks under the same names",
        both(
            move("ImageSets/Main/train.txt", "ImageSets/Segmentation/train.txt"),
            move("ImageSets/Main/test.txt", "ImageSets/Segmentation/val.txt"),
            picture("SegmentationClass/a.png", "PNG"),
        ),
        r"train\.txt lists 2 pictures of the split train.*2 pictures to train on .train., 1 to test on .val.",
    ),
    Fault(
        formats.voc,
        "pictures and annotations in the lists",
        both(
            move("ImageSets/Main/train.txt", "train.txt"),
            move("ImageSets/Main/test.txt", "valid.txt"),
            put("train.txt", "JPEGImages/a.jpg Annotations/a.xml\r\n./JPEGImages/b c.jpg\r\nJPEGImages/gone.jpg x.xml"),
            put("valid.txt", "JPEGImages\\d.jpg Annotations\\d.xml"),
        ),
        r"train\.txt lists 2 pictures of the split train; 1 of its lines name no annotated picture .first: JPEGImages"
        r".*2 pictures to train on .train., 1 to test on .val.",
    ),
    Fault(
        formats.labelimg,
        "accents of a class in two forms",
        both(
            edit("train/a.xml", "<name>cat<", f"<name>{unicodedata.normalize('NFD', 'café')}<"),
            edit("train/b c.xml", "<name>cat<", "<name>café<"),
        ),
        r"classes: café .2., dog .2.",
    ),
    Fault(
        formats.labelimg,
        "another picture in <filename>",
        both(edit("train/a.xml", "x.jpg", "b c.jpg"), edit("train/b c.xml", "x.jpg", "a.jpg")),
        r"2 files are named like one picture and name another in <filename>; .*first: train/a\.xml: b c\.jpg",
    ),
    Fault(
        formats.labelimg,
        "splits of the pictures only",
        both(*(move(f"{name}.xml", f"xml/{name.split('/')[1]}.xml") for name in formats.TRUTH)),
        r"2 pictures to train on .train., 1 to test on .test.",
    ),
    Fault(
        formats.voc,
        "an export of CVAT for each split",
        both(
            *(
                move(f"{folder}/{stem}.{suffix}", f"{split}/{folder}/{stem}.{suffix}")
                for folder, suffix in FILES
                for split, stem in (name.split("/") for name in formats.TRUTH)
            ),
            *(
                move(f"ImageSets/Main/{split}.txt", f"{split}/ImageSets/Main/default.txt")
                for split in ("train", "test")
            ),
        ),
        r"VOC tree: 3 pictures, image lists default.*2 pictures to train on .train., 1 to test on .test.",
    ),
    Fault(
        formats.labelimg,
        "an object in another",
        edit("train/a.xml", "<object>", "<object><object><bndbox/></object>"),
        r"train/a\.xml: object 0 has a <object> with a box in it",
    ),
    Fault(
        formats.labelimg,
        "parts of a person",
        edit("train/a.xml", "<object>", "<object><part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"),
        None,
    ),
    Fault(
        formats.labelimg,
        "no objects to test on",
        edit("test/d.xml", "<object>.*</object>", ""),
        "no object in any of the 1 pictures to test on: there is no score",
    ),
    Fault(
        formats.labelimg,
        "turned boxes of roLabelImg",
        edit("train/a.xml", "<bndbox>.*?</bndbox>", "<robndbox><cx>9</cx><cy>9</cy></robndbox>"),
        r"train/a\.xml: object 0 has a turned box .<robndbox>.; expected an upright",
    ),
    Fault(
        formats.labelimg,
        "only difficult objects to test on",
        edit("test/d.xml", "<difficult>0", "<difficult>1"),
        "all 1 objects to test on are marked as difficult or as crowds: no score counts them",
    ),
    Fault(formats.labelimg, "a pipe", both(pipe("train/x.xml"), pipe("train/x.jpg")), None),
    Fault(formats.labelimg, "a link to a device", link("train/x.jpg", "/dev/zero"), None),
    Fault(
        formats.labelimg,
        "thumbnails of a network disk",
        both(picture("train/@eaDir/a.jpg/THUMB.jpg", "JPEG"), put("train/@eaDir/a.xml", "<annotation/>")),
        None,
    ),
]

PICTURES = [
    Fault(
        formats.labelimg,
        "a picture in a format of phones",
        move("train/a.jpg", "train/a.heic"),
        r"train/a\.xml: no picture .*\(train/a\.heic is there",
    ),
    Fault(
        formats.roboflow_coco,
        "COCO: a picture in a format of phones",
        move("train/a.jpg", "train/a.heic"),
        r"names the picture a\.jpg.*\(train/a\.heic is there",
    ),
    Fault(formats.labelimg, "empty picture file", put("train/a.jpg", b""), r"train/a\.jpg: cannot be read .*empty"),
    Fault(
        formats.labelimg,
        "error page in place of a picture",
        put("train/a.jpg", "<html>404</html>"),
        r"train/a\.jpg: cannot be read",
    ),
    Fault(formats.labelimg, "picture cut off", cut("train/a.jpg", 0.7), r"train/a\.jpg: cannot be read"),
    Fault(
        formats.labelimg,
        "picture of a phone under another name",
        put("train/a.jpg", b"\0\0\0 ftypheic" + b"\0" * 90),
        r"train/a\.jpg: cannot be read .it is a HEIC file under another name: save it as JPEG or PNG",
    ),
    Fault(
        formats.labelimg,
        "Git LFS pointer in place of a picture",
        put("train/a.jpg", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        r"train/a\.jpg: cannot be read .it is a pointer of Git LFS",
    ),
    Fault(
        formats.labelimg,
        "pictures inside of the annotations only",
        both(*(remove(f"{name}.jpg") for name in formats.TRUTH), put("x.json", '{"shapes": [], "imageData": "aa"}')),
        "no pictures .*; LabelMe's files contain the pictures: save these beside them",
    ),
    Fault(formats.labelimg, "JPEG named .jfif", move("train/a.jpg", "train/a.jfif"), None),
    Fault(formats.labelimg, "GIF named .jpg", picture("train/a.jpg", "GIF"), None),
    Fault(formats.labelimg, "CMYK JPEG", picture("train/a.jpg", "JPEG", mode="CMYK"), None),
    Fault(formats.labelimg, "animated PNG named .jpg", picture("train/a.jpg", "PNG"), None),
    Fault(formats.labelimg, "TIFF with several pages, named .jpg", picture("train/a.jpg", "TIFF"), None),
    Fault(formats.labelimg, "grey picture", picture("train/a.jpg", "JPEG", mode="L"), None),
    Fault(
        formats.labelimg,
        "resized picture",
        picture("train/a.jpg", "JPEG", (20, 15)),
        r"train/a\.jpg: the image is 20x15",
    ),
    Fault(formats.labelimg, "folder in place of a picture", directory("train/a.jpg"), r"train/a\.xml: no picture"),
    Fault(formats.labelimg, "picture that links to itself", link("train/a.jpg", "a.jpg"), r"train/a\.jpg"),
    Fault(formats.yolo_data, "empty YOLO picture file", put("images/train/a.jpg", b""), r"train/a\.jpg"),
    Fault(formats.open_images, "Open Images: text in place of a picture", put("train/a.jpg", "x"), r"train/a\.jpg"),
    Fault(formats.csv, "CSV: text in place of a picture", put("train/a.jpg", "x"), r"train/a\.jpg"),
    Fault(formats.label_studio, "Label Studio: text in place of a picture", put("train/a.jpg", "x"), r"train/a\.jpg"),
]

COCO = [
    Fault(formats.roboflow_coco, "BOM", recode(TRAIN_COCO, "utf-8", b"\xef\xbb\xbf"), None),
    Fault(
        formats.roboflow_coco, "cut off", cut(TRAIN_COCO, 0.8), r"train/_annotations.coco.json: not readable as JSON"
    ),
    Fault(
        formats.roboflow_coco,
        "polygon without bbox",
        as_json(TRAIN_COCO, _first("annotations", bbox=None, segmentation=POLYGON)),
        "1 objects have no bbox: their box is around their polygons",
    ),
    Fault(
        formats.roboflow_coco,
        "NaN in a polygon without bbox",
        as_json(TRAIN_COCO, _first("annotations", bbox=None, segmentation=[[1, 2, float("nan"), 4, 5, 6]])),
        "annotation 0 has a box that is not finite",
    ),
    Fault(
        formats.roboflow_coco,
        "text in a polygon without bbox",
        as_json(TRAIN_COCO, _first("annotations", bbox=None, segmentation=["abcd"])),
        "annotation 0: a polygon is 'abcd'",
    ),
    Fault(
        formats.roboflow_coco,
        "file_name written as in a web address",
        both(move("train/b c.jpg", "train/b d.jpg"), as_json(TRAIN_COCO, _names_as_addresses)),
        None,
    ),
    Fault(
        formats.roboflow_coco,
        "one box in fractions",
        as_json(TRAIN_COCO, _first("annotations", bbox=[0.1, 0.1, 0.5, 0.5])),
        "annotation 0 is inside the first pixel",
    ),
    Fault(
        formats.roboflow_coco,
        "a copy of all annotations beside the splits",
        lambda root: _write(root / "copy/all.json", (root / TRAIN_COCO).read_bytes()),
        r"2 annotations repeat those of another file .first: train/a\.jpg in .*_annotations\.coco\.json",
    ),
    Fault(
        formats.roboflow_coco,
        "a copy of the annotations in the other split",
        lambda root: _write(root / "val_copy.json", (root / TRAIN_COCO).read_bytes()),
        r"annotates train/a\.jpg, as",
    ),
    Fault(
        formats.roboflow_coco,
        "a list of categories beside the annotations",
        put("notes.json", '{"categories": [{"id": 5, "name": "cat"}], "info": {"version": "1"}}'),
        None,
    ),
    Fault(
        formats.roboflow_coco,
        "blanks around the names of categories",
        both(*(edit(f"{split}/_annotations.coco.json", '"cat"', '" cat "', 0) for split in ("train", "test"))),
        None,
    ),
    Fault(
        formats.roboflow_coco,
        "RLE without bbox",
        as_json(TRAIN_COCO, _first("annotations", bbox=None, segmentation=RLE)),
        r"annotation 0 has .*bbox",
    ),
    Fault(
        formats.roboflow_coco,
        "empty bbox",
        as_json(TRAIN_COCO, _first("annotations", bbox=[])),
        "annotation 0 has .*bbox",
    ),
    Fault(
        formats.roboflow_coco,
        "category counted from 0",
        as_json(TRAIN_COCO, _first("annotations", category_id=0)),
        "annotation 0 has the unknown category 0",
    ),
    Fault(
        formats.roboflow_coco,
        "corners in place of sizes",
        as_json(TRAIN_COCO, _first("annotations", bbox=[10, 6, 90, 80])),
        "annotation 0 lies outside",
    ),
    Fault(
        formats.roboflow_coco,
        "fractions",
        both(
            *(
                as_json(
                    f"{split}/_annotations.coco.json",
                    lambda content: (
                        [item.update(bbox=[0.1, 0.1, 0.5, 0.5]) for item in content["annotations"]] and None
                    ),
                )
                for split in ("train", "test")
            )
        ),
        "annotation 0.*fractions",
    ),
    Fault(
        formats.roboflow_coco,
        "folders in file_name",
        as_json(TRAIN_COCO, _first("images", file_name="data/x/a.jpg")),
        None,
    ),
    Fault(
        formats.roboflow_coco,
        "backslashes in file_name",
        as_json(TRAIN_COCO, _first("images", file_name="C:\\x\\a.jpg")),
        None,
    ),
    Fault(
        formats.roboflow_coco,
        "file_name that leaves the folder",
        as_json(TRAIN_COCO, _first("images", file_name="../../a.jpg")),
        None,
    ),
    Fault(
        formats.roboflow_coco,
        "file_name of a web address",
        as_json(TRAIN_COCO, _first("images", file_name="http://x/gone.jpg")),
        r"names the picture http://x/gone\.jpg",
    ),
    Fault(
        formats.roboflow_coco,
        "file_name in another case",
        as_json(TRAIN_COCO, _first("images", file_name="A.JPG")),
        None,
    ),
    Fault(
        formats.roboflow_coco,
        "accents in two forms",
        both(
            move("train/a.jpg", "train/" + unicodedata.normalize("NFD", "é.jpg")),
            as_json(TRAIN_COCO, _first("images", file_name="\u00e9.jpg")),
        ),
        None,
    ),
    Fault(
        formats.roboflow_coco,
        "one annotation twice",
        as_json(TRAIN_COCO, lambda content: content["annotations"].append(content["annotations"][0])),
        "twice .first: .*annotation 0",
    ),
    Fault(
        formats.roboflow_coco,
        "no image of the annotation",
        as_json(TRAIN_COCO, _first("annotations", image_id=77)),
        "annotation 0 is for image 77",
    ),
    Fault(
        formats.roboflow_coco,
        "a list, as in result files",
        as_json(TRAIN_COCO, lambda content: content["annotations"]),
        r"in no annotation file and are left out .first: train/a\.jpg",
    ),
    Fault(
        formats.roboflow_coco,
        "null for annotations",
        as_json(TRAIN_COCO, lambda content: content.update(annotations=None)),
        "'annotations'",
    ),
    Fault(
        formats.roboflow_coco,
        "null for a size",
        as_json(TRAIN_COCO, lambda content: content["images"][0].update(width=None)),
        "image 0: its width",
    ),
    Fault(
        formats.roboflow_coco,
        "huge size",
        as_json(TRAIN_COCO, _first("images", width=10**12)),
        "image 0: its width",
    ),
    Fault(
        formats.roboflow_coco,
        "empty file of one split",
        put("test/_annotations.coco.json", b""),
        r"test/_annotations\.coco\.json: .*the file is empty",
    ),
    Fault(
        formats.roboflow_coco,
        "the project among the categories",
        both(
            *(
                as_json(
                    f"{split}/_annotations.coco.json",
                    lambda content: content["categories"].append({"id": 0, "name": "cards", "supercategory": "none"}),
                )
                for split in ("train", "test")
            )
        ),
        r"classes of the class list without objects: cards; dataset\.classes leaves them out",
    ),
    Fault(
        formats.roboflow_coco,
        "boxes as text",
        as_json(TRAIN_COCO, _first("annotations", bbox=["1", "2", "3", "4"])),
        "annotation 0 has a bbox",
    ),
]

YOLO = [
    Fault(formats.yolo_data, "BOM", recode("labels/train/a.txt", "utf-8", b"\xef\xbb\xbf"), None),
    Fault(formats.yolo_data, "line ends of old systems", recode("labels/train/a.txt", "utf-8", line="\r"), None),
    Fault(formats.yolo_data, "tabs", edit("labels/train/a.txt", " ", "\t", 0), None),
    Fault(
        formats.yolo_data,
        "class beyond the names",
        edit("labels/train/a.txt", "^0", "7"),
        r"labels/train/a\.txt: line 1 has the class 7",
    ),
    Fault(
        formats.yolo_data,
        "class as a fraction",
        edit("labels/train/a.txt", "^0", "0.5"),
        r"labels/train/a\.txt: line 1 has the class 0\.5",
    ),
    Fault(formats.yolo_data, "class 0.0", edit("labels/train/a.txt", "^0", "0.0"), None),
    Fault(
        formats.yolo_data, "negative class", edit("labels/train/a.txt", "^0", "-1"), r"a\.txt: line 1 has the class -1"
    ),
    Fault(formats.yolo_data, "class by its name", edit("labels/train/a.txt", "^0", "cat"), r"a\.txt: line 1 is"),
    Fault(
        formats.yolo_data, "four columns", put("labels/train/a.txt", "0 0.5 0.5 0.5\n"), r"a\.txt: line 1 has 4 numbers"
    ),
    Fault(
        formats.yolo_data,
        "a confidence at the end",
        put("labels/train/a.txt", "0 0.5 0.5 0.5 0.5 0.9\n"),
        r"a\.txt: line 1 has 6 numbers",
    ),
    Fault(
        formats.yolo_data,
        "polygon with an odd number",
        put("labels/train/a.txt", "0 .1 .1 .2 .2 .3 .3 .4\n"),
        r"a\.txt: line 1 has 8 numbers",
    ),
    Fault(formats.yolo_data, "pixels", put("labels/train/a.txt", "0 20 15 10 10\n"), r"a\.txt: line 1 .*pixels"),
    Fault(formats.yolo_data, "NaN", put("labels/train/a.txt", "0 nan 0.5 0.5 0.5\n"), r"a\.txt: line 1"),
    Fault(formats.yolo_data, "a comma alone", put("labels/train/a.txt", ",\n"), r"a\.txt: line 1"),
    Fault(formats.yolo_data, "decimal commas", put("labels/train/a.txt", "0 0,5 0,5 0,5 0,5\n"), r"a\.txt: line 1"),
    Fault(formats.yolo_data, "size of 0", put("labels/train/a.txt", "0 0.5 0.5 0 0\n"), r"a\.txt: line 1 has no area"),
    Fault(formats.yolo_data, "negative size", put("labels/train/a.txt", "0 0.5 0.5 -0.2 0.2\n"), r"a\.txt: line 1"),
    Fault(
        formats.yolo_data,
        "centre outside",
        put("labels/train/a.txt", "0 1.4 0.5 0.2 0.2\n"),
        r"a\.txt: line 1 lies outside",
    ),
    Fault(
        formats.yolo_data, "labels without picture", put("labels/train/gone.txt", "0 0.5 0.5 0.2 0.2\n"), r"gone\.txt"
    ),
    Fault(
        formats.yolo_data,
        "fewer names than nc",
        edit("data.yaml", "names: .*", "nc: 3\nnames: [cat, dog]"),
        r"data\.yaml: nc is 3",
    ),
    Fault(
        formats.yolo_data, "YAML with a tab", edit("data.yaml", "names: .*", "names:\n\t- cat\n\t- dog"), r"data\.yaml"
    ),
    Fault(
        formats.yolo_data,
        "YAML without an end",
        edit("data.yaml", "names: .*", "names: [cat, dog"),
        r"data\.yaml: not readable as YAML near line \d",
    ),
    Fault(formats.yolo_data, "keys as text", edit("data.yaml", "{0: cat, 1: dog}", '{"0": cat, "1": dog}'), None),
    Fault(formats.yolo_data, "null for a split", edit("data.yaml", "names", "test: null\nnames"), None),
    Fault(
        formats.yolo_data,
        "folders of another order",
        both(edit("data.yaml", "images/train", "train/images"), edit("data.yaml", "images/test", "valid/images")),
        r"2 pictures to train on .train., 1 to test on .test.",
    ),
    Fault(
        formats.yolo_data,
        "masks and results of a training",
        both(
            *(picture(f"{folder}/a.png", "PNG") for folder in ("masks/train", "runs/detect/train")),
            flat_label("old/labels/a.txt", "0 0.5 0.5 0.2 0.2 0.9\n"),
        ),
        r"1 text files are left out, since labels/.*2 pictures are in no folder or list that data\.yaml names",
    ),
    Fault(
        formats.yolo_darknet,
        "masks beside the pictures",
        picture("masks/a.png", "PNG"),
        r"1 pictures have the name of an annotated picture and no text file, like masks, .*masks/a\.png",
    ),
    Fault(
        formats.yolo_darknet,
        "older text files of other content",
        put("train/old/a.txt", "0 0.5 0.5 0.2 0.2\n"),
        r"old/a\.txt: annotates train/a\.jpg, as train/a\.txt does, but differs|train/a\.txt: annotates train/a\.jpg",
    ),
    Fault(
        formats.yolo_darknet,
        "older text files of the same content",
        lambda root: _write(root / "train/old/a.txt", (root / "train/a.txt").read_bytes()),
        None,
    ),
    Fault(
        formats.yolo_darknet,
        "many empty text files first",
        both(*(both(picture(f"train/0{number}.jpg", "JPEG"), put(f"train/0{number}.txt", "")) for number in range(60))),
        None,
    ),
    Fault(
        formats.yolo_darknet,
        "all text files empty",
        both(*(put(f"{name}.txt", "") for name in formats.TRUTH)),
        r"all 3 text files with the names of pictures are empty .first: test/d\.txt",
    ),
    Fault(
        formats.yolo_darknet,
        "text files of KITTI",
        both(*(put(f"{name}.txt", "Car 0.00 0 -1.58 8 8 40 32 1 1 3 -0.65 1 46 -1\n") for name in formats.TRUTH)),
        r"test/d\.txt begins with 'Car 0\.00 .*: expected a class number and four fractions",
    ),
    Fault(formats.yolo_data, "no names", edit("data.yaml", "names: .*", "nc: 2"), "data.yaml or classes.txt"),
    Fault(formats.yolo_data, "empty names", edit("data.yaml", "names: .*", "names: []"), r"data\.yaml: names is"),
    Fault(
        formats.yolo_data,
        "null for a name",
        edit("data.yaml", "names: .*", "names: [cat, null]"),
        r"data\.yaml: names is",
    ),
    Fault(formats.yolo_data, "keypoints after the boxes", keypoints("[2, 2]", "0.1 0.9 0.2 0.9"), None),
    Fault(
        formats.yolo_data,
        "keypoints without their number",
        both(keypoints("x", "0.5 0.5 2 0.4 0.5 1 0 0 0"), edit("data.yaml", "kpt_shape: x\n", "")),
        None,
    ),
    Fault(
        formats.yolo_data,
        "text files with two suffixes",
        both(*(move(f"labels/{name}.txt", f"labels/{name}.jpg.txt") for name in formats.TRUTH)),
        None,
    ),
    Fault(
        formats.yolo_data,
        "keypoints of another number",
        keypoints("[2, 3]", "0.1 0.9 0.2 0.9"),
        r"labels/.*: line 1 has 9 numbers; expected 5 .class, centre, size., or 11 with keypoints",
    ),
    Fault(
        formats.yolo_data,
        "a confidence and a number at the end",
        edit("labels/train/a.txt", "\n", " 0.9 1\n"),
        "1 objects have more than four numbers.* polygons",
    ),
    Fault(
        formats.yolo_data,
        "a split without folder",
        edit("data.yaml", "val: images/test", "val: images/val"),
        "data.yaml names val: images/val, but it has no pictures here",
    ),
    Fault(
        formats.yolo_data,
        "a list of lost pictures",
        both(edit("data.yaml", "val: images/test", "val: val.txt"), put("val.txt", "images/test/d.jpg\nimages/x.jpg")),
        r"val\.txt lists 1 pictures that are not here .first: images/x\.jpg",
    ),
    Fault(
        formats.yolo_data,
        "the whole folder as a split",
        edit("data.yaml", "val: images/test", "val: ./"),
        "2 pictures are in train and in test",
    ),
    Fault(formats.yolo_data, "folder in place of a label file", directory("labels/train/a.txt"), "have no text file"),
    Fault(
        formats.yolo_darknet,
        "a blank line among the names",
        put("classes.txt", "cat\n\ndog\n"),
        r"classes\.txt: line 2",
    ),
]

JSON_AND_XML = [
    Fault(formats.labelme, "cut off", cut("train/a.json", 0.5), r"train/a\.json"),
    Fault(
        formats.labelme,
        "no points",
        as_json("train/a.json", lambda content: content["shapes"][0].update(points=[])),
        r"train/a\.json: shape 0",
    ),
    Fault(
        formats.labelme,
        "null for a label",
        as_json("train/a.json", lambda content: content["shapes"][0].update(label=None)),
        r"train/a\.json: shape 0",
    ),
    Fault(
        formats.labelme,
        "a number for a label",
        both(
            *(
                as_json(f"{name}.json", lambda content: [item.update(label=7) for item in content["shapes"]] and None)
                for name in formats.TRUTH
            )
        ),
        r"classes: 7 .4.",
    ),
    Fault(
        formats.labelme,
        "mask",
        as_json("train/a.json", lambda content: content["shapes"][0].update(shape_type="mask")),
        None,
    ),
    Fault(
        formats.labelme,
        "point of three numbers",
        as_json("train/a.json", lambda content: content["shapes"][0].update(points=[[1, 2, 3], [4, 5, 6]])),
        r"train/a\.json: shape 0",
    ),
    Fault(
        formats.labelme,
        "null for shapes",
        as_json("train/a.json", lambda content: content.update(shapes=None)),
        r"train/a\.json.*'shapes'",
    ),
    Fault(
        formats.labelme,
        "size of another picture",
        as_json("train/a.json", lambda content: content.update(imageWidth=80)),
        r"train/a\.jpg: the image is 40x30",
    ),
    Fault(
        formats.labelme,
        "circle at the edge",
        as_json(
            "train/a.json",
            lambda content: content["shapes"][0].update(shape_type="circle", points=[[8, 15], [8, 3]]),
        ),
        r"1 boxes extend beyond the edge of their image and are clipped .first: .*train/a\.json: shape 0",
    ),
    Fault(formats.labelme, "empty file", put("train/a.json", ""), r"train/a\.json|have no annotation"),
    Fault(
        formats.cvat,
        "no width",
        edit("annotations.xml", 'width="40"', ""),
        r"annotations\.xml: image a\.jpg: its width",
    ),
    Fault(
        formats.cvat, "no corner", edit("annotations.xml", 'xtl="10"', ""), r"annotations\.xml: image a\.jpg, shape 0"
    ),
    Fault(
        formats.cvat,
        "turned box at the edge",
        edit("annotations.xml", 'xtl="10" ytl="6"', 'rotation="45" xtl="0" ytl="6"'),
        r"1 boxes extend beyond the edge of their image and are clipped .first: .*annotations\.xml: image a\.jpg",
    ),
    Fault(
        formats.cvat,
        "turned by infinity",
        edit("annotations.xml", 'xtl="10" ytl="6"', 'rotation="inf" xtl="10" ytl="6"'),
        r"annotations\.xml: image a\.jpg, shape 0: .*its rotation is inf degrees; expected a finite number",
    ),
    Fault(
        formats.cvat,
        "turned polygon without a number",
        edit("annotations.xml", "<box", '<polygon label="cat" rotation="left" points="1,1;9,1;9,9"/><box'),
        r"annotations\.xml: image a\.jpg, shape 0: <polygon> of 'cat' has no corners in numbers",
    ),
    Fault(
        formats.cvat,
        "turned box mostly outside",
        edit("annotations.xml", 'xtl="10" ytl="6" xbr="30"', 'rotation="45" xtl="-30" ytl="6" xbr="8"'),
        r"annotations\.xml: image a\.jpg, shape 0 lies outside",
    ),
    Fault(
        formats.cvat,
        "masks only",
        edit("annotations.xml", "<image .*</image>", '<image name="a.jpg" width="40" height="30"><mask/></image>'),
        r"but no objects; .*shapes that are not boxes are skipped: mask .1.",
    ),
    Fault(
        formats.cvat,
        "empty label",
        edit("annotations.xml", 'label="cat"', 'label=""'),
        r"annotations\.xml: image a\.jpg, shape 0",
    ),
    Fault(
        formats.cvat,
        "video",
        edit("annotations.xml", "<image", "<track></track><image"),
        r"annotations\.xml: not CVAT's XML for images",
    ),
    Fault(formats.cvat, "cut off", cut("annotations.xml", 0.7), r"annotations\.xml: not readable as XML"),
    Fault(
        formats.cvat,
        "missing picture",
        remove("images/train/a.jpg"),
        r"annotations\.xml: names the picture a\.jpg",
    ),
    Fault(formats.cvat, "points with a blank", edit("annotations.xml", 'points="0,', 'points="0, '), None),
    Fault(
        formats.cvat,
        "unknown subset",
        edit("annotations.xml", 'subset="Train"', 'subset="holdout"', 0),
        r"unknown subset 'holdout' .2. have no split; known: train",
    ),
    Fault(
        formats.cvat,
        "image twice",
        edit("annotations.xml", '<image id="1" name="b c.jpg"', '<image id="1" name="a.jpg"'),
        r"annotations\.xml: annotates .*a\.jpg",
    ),
    Fault(
        formats.label_studio,
        "no result",
        as_json("project-1.json", lambda tasks: tasks[0].update(annotations=[{"result": None}])),
        r"project-1\.json: task 0",
    ),
    Fault(
        formats.label_studio,
        "nothing annotated",
        as_json("project-1.json", lambda tasks: tasks[0].update(annotations=[])),
        "tasks are not annotated",
    ),
    Fault(
        formats.label_studio,
        "picture in the cloud",
        as_json("project-1.json", lambda tasks: tasks[0]["data"].update(image="s3://x/gone.jpg")),
        r"project-1\.json: task 0",
    ),
    Fault(
        formats.label_studio,
        "null for a width",
        as_json("project-1.json", lambda tasks: tasks[0]["annotations"][1]["result"][0]["value"].update(width=None)),
        r"task 0, shape 0",
    ),
    Fault(
        formats.label_studio,
        "cropped picture",
        picture("train/a.jpg", "JPEG", (20, 30)),
        r"train/a\.jpg: the image is 20x30, its annotation says 40x30",
    ),
    Fault(
        formats.label_studio,
        "turned box at the edge",
        as_json(
            "project-1.json",
            lambda tasks: tasks[0]["annotations"][1]["result"][0]["value"].update(rotation=45, x=30, y=20),
        ),
        r"1 boxes extend beyond the edge of their image and are clipped .first: .*project-1\.json: task 0, shape 0",
    ),
    Fault(
        formats.label_studio,
        "turned by infinity",
        as_json(
            "project-1.json", lambda tasks: tasks[0]["annotations"][1]["result"][0]["value"].update(rotation=math.inf)
        ),
        r"project-1\.json: task 0, shape 0: its rotation is inf degrees; expected a finite number",
    ),
    Fault(
        formats.label_studio,
        "picture turned in the program",
        as_json("project-1.json", lambda tasks: tasks[0]["annotations"][1]["result"][0].update(image_rotation=90)),
        r"project-1\.json: task 0, shape 0 was drawn on the picture turned by 90 degrees",
    ),
    Fault(
        formats.label_studio,
        "several labels",
        as_json(
            "project-1.json",
            lambda tasks: tasks[0]["annotations"][1]["result"][0]["value"].update(rectanglelabels=["cat", "dog"]),
        ),
        "1 shapes have several labels; the first label is used",
    ),
    Fault(
        formats.label_studio, "empty second file", put("project-2.json", b"\0" * 9), r"project-2\.json: .*file is empty"
    ),
    Fault(formats.label_studio, "cut off", cut("project-1.json", 0.5), r"project-1\.json: not readable as JSON"),
]

TABLES = [
    Fault(formats.csv, "size of the boxes", box_sizes, None),
    Fault(
        formats.csv,
        "headers of another style",
        lambda root: [
            _write(
                file,
                file.read_text(encoding="utf-16")
                .replace("filename,", "Image-Name,")
                .replace("class,xmin,ymin,xmax,ymax", "Class Name,X Min,Y_MIN,x-max,Y.Max"),
            )
            for file in root.glob("*.csv")
        ],
        None,
    ),
    Fault(
        formats.csv,
        "one table of all, and one for each split",
        lambda root: _write(
            root / "all.csv",
            (root / "train_labels.csv").read_text(encoding="utf-16")
            + "\n"
            + (root / "test_labels.csv").read_text(encoding="utf-16").split("\n", 1)[1],
        ),
        r"3 annotations repeat those of another file.*2 pictures to train on .train., 1 to test on .test.",
    ),
    Fault(formats.csv, "six columns with names", boxes_in_columns("xmin,ymin,xmax,ymax", "{x1},{y1},{x2},{y2}"), None),
    Fault(
        formats.csv,
        "all rows with a fault",
        boxes_in_columns("xmin,ymin,xmax,ymax", '"{x1},5","{y1},5","{x2},5","{y2},5"'),
        r"4 faults in .*_labels\.csv: line 2 has the box",
    ),
    Fault(formats.csv, "four numbers in one cell", boxes_in_a_cell("[{x1}, {y1}, {w}, {h}]"), None),
    Fault(formats.csv, "four numbers with blanks between", boxes_in_a_cell("{x1} {y1} {w} {h}"), None),
    Fault(
        formats.csv,
        "corners in one cell",
        boxes_in_a_cell("({x1}, {y1}, {x2}, {y2})"),
        None,
    ),
    Fault(
        formats.csv,
        "centres",
        boxes_in_columns("x_center,y_center,width,height", "{cx},{cy},{w},{h}"),
        None,
    ),
    Fault(
        formats.csv,
        "size of larger pictures",
        lambda root: _write(
            root / "train_labels.csv",
            (root / "train_labels.csv").read_text(encoding="utf-16").replace(",40,30,", ",80,60,"),
        ),
        r"train/a\.jpg: the image is 40x30, its annotation says 80x60",
    ),
    Fault(
        formats.csv, "empty table of one split", put("test_labels.csv", b""), r"test_labels\.csv: the table is empty"
    ),
    Fault(
        formats.open_images,
        "empty table of one split, Open Images",
        put("test-annotations-bbox.csv", b""),
        r"test-annotations-bbox\.csv: the table is empty",
    ),
    Fault(formats.csv_without_head, "semicolons", edit("annotations.csv", ",", ";", 0), None),
    Fault(formats.csv_without_head, "line ends of old systems", recode("annotations.csv", "utf-8", line="\r"), None),
    Fault(formats.csv_without_head, "quoted cells", edit("annotations.csv", r"train/a\.jpg", '"train/a.jpg"'), None),
    Fault(
        formats.csv_without_head,
        "quote without an end",
        edit("annotations.csv", r"train/a\.jpg", '"train/a.jpg'),
        r"annotations\.csv",
    ),
    Fault(formats.csv_without_head, "BOM", recode("annotations.csv", "utf-8", b"\xef\xbb\xbf"), None),
    Fault(formats.csv_without_head, "a cell too few", edit("annotations.csv", ",cat", ""), r"annotations\.csv: line 1"),
    Fault(
        formats.csv_without_head,
        "a cell too many",
        edit("annotations.csv", ",10,6", ",10,6,3"),
        r"annotations\.csv: line 1",
    ),
    Fault(
        formats.csv_without_head,
        "swapped corners",
        edit("annotations.csv", "10,6,30,24", "30,24,10,6"),
        r"annotations\.csv: line 1",
    ),
    Fault(formats.csv_without_head, "missing picture", remove("train/a.jpg"), r"annotations\.csv.*a\.jpg"),
    Fault(formats.csv_of_sizes, "decimal commas between semicolons", edit("boxes.csv", ";10;6;", ";10,0;6,0;"), None),
    Fault(
        formats.csv_of_sizes,
        "a line twice",
        edit("boxes.csv", r"train;cat;10;6;20;18;a", "train;cat;10;6;20;18;a\ntrain;cat;10;6;20;18;a"),
        r"twice .first: .*boxes\.csv: line 3",
    ),
    Fault(
        formats.csv_of_sizes,
        "no class column",
        edit("boxes.csv", "Label", "Kind"),
        r"boxes\.csv: no class column",
    ),
    Fault(
        formats.csv_of_sizes,
        "split with an unknown name",
        edit("boxes.csv", "train;", "holdout;", 0),
        r"boxes\.csv: lines with the unknown split 'holdout' ",
    ),
    Fault(
        formats.csv_of_sizes,
        "header twice",
        edit("boxes.csv", "\ntrain", "\nSplit;Label;X;Y;W;H;Image\ntrain"),
        r"boxes\.csv: line 2",
    ),
    Fault(
        formats.csv_of_sizes,
        "header only",
        put("boxes.csv", "Split;Label;X;Y;W;H;Image\n"),
        "boxes.csv, but no picture has an annotation",
    ),
    Fault(formats.csv_of_sizes, "NaN of pandas", edit("boxes.csv", ";10;6;", ";nan;6;"), r"boxes\.csv: line 2"),
    Fault(formats.csv_of_sizes, "thousands", edit("boxes.csv", ";10;6;", ";1.000,5;6;"), r"boxes\.csv: line 2"),
    Fault(
        formats.open_images,
        "old line ends in the header",
        edit("train-annotations-bbox.csv", "IsGroupOf", "IsGr\roupOf"),
        r"train-annotations-bbox\.csv",
    ),
    Fault(
        formats.open_images,
        "a cell too few",
        edit("train-annotations-bbox.csv", ",0,1,0\n", ",0,1\n"),
        r"train-annotations-bbox\.csv: line 2",
    ),
    Fault(
        formats.open_images,
        "corner missing",
        edit("train-annotations-bbox.csv", "0.25", ""),
        r"train-annotations-bbox\.csv: line 2",
    ),
    Fault(
        formats.open_images,
        "no names for the classes",
        remove("class-descriptions-boxable.csv"),
        "no class-descriptions file names the classes /m/01, /m/02",
    ),
    Fault(
        formats.open_images,
        "names for the classes as FiftyOne writes them",
        move("class-descriptions-boxable.csv", "metadata/classes.csv"),
        r"classes: cat .2., dog .3.",
    ),
    Fault(
        formats.open_images,
        "pixels in place of fractions",
        edit("train-annotations-bbox.csv", "0.25,0.75,0.2,0.8", "10,30,6,24"),
        r"train-annotations-bbox\.csv: line 2",
    ),
]

FAULTS = [*VOC, *PICTURES, *COCO, *YOLO, *JSON_AND_XML, *TABLES]
