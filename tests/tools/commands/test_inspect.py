"""`detector inspect`: each fault and each oddity is found, the page is self-contained, the source is unchanged."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detector.configs import schema
from detector.datasets.box_faults import corrected_box
from detector.datasets.build import open_folder
from detector.datasets.folder import Folder
from detector.datasets.inspection import DUPLICATE_IOU, drawn_before
from detector.datasets.records import MarkedObject
from detector.datasets.sample import Annotation
from detector.ops.boxes import iou
from detector.tools import cli
from detector.tools.commands.inspect import planned_map
from tests.datasets.readers import formats

Objects = Sequence[tuple[str, tuple[float, float, float, float]]]
PLAIN: Objects = [("cat", (40, 40, 160, 200))]


def add(root: Path, name: str, objects: Objects, *, seed: int, orientation: int = 1) -> Path:
    """Add a picture of 300x250 with its XML file. Pictures with the same seed are copies."""
    path = root / f"{name}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 255, (10, 12, 3), np.uint8)).resize((300, 250), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)
    items = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        "</bndbox></object>"
        for label, (x1, y1, x2, y2) in objects
    )
    size = "<size><width>300</width><height>250</height></size>"
    (root / f"{name}.xml").write_text(f"<annotation>{size}{items}</annotation>")
    return path


@pytest.fixture
def faulty_folder(tmp_path: Path) -> Path:
    """A folder with one case of each fault and oddity."""
    root = tmp_path / "faulty_folder"
    for number in range(4):
        add(root, f"train/{number}", PLAIN, seed=number)
        add(root, f"test/{number + 4}", PLAIN, seed=100 + number)
    cut = add(root, "train/cut", PLAIN, seed=10)
    cut.write_bytes(cut.read_bytes()[:-40])
    add(root, "train/outside", [*PLAIN, ("cat", (250, 10, 500, 90))], seed=11)
    add(root, "train/twice", [*PLAIN, ("cat", (40, 40, 161, 200))], seed=12)
    add(root, "train/empty", [], seed=13)
    add(root, "train/tiny", [("cat", (40, 40, 48, 48)), *PLAIN], seed=14)
    add(root, "test/thin", [("cat", (10, 40, 290, 50)), *PLAIN], seed=15)
    add(root, "train/turned", PLAIN, seed=16, orientation=3)
    shutil.copy(root / "train/0.jpg", root / "test/leak.jpg")
    shutil.copy(root / "train/0.xml", root / "test/leak.xml")
    with Image.open(root / "train/1.jpg") as picture:
        picture.save(root / "test/near.jpg", quality=60)
    shutil.copy(root / "train/1.xml", root / "test/near.xml")
    add(root, "test/name", [("Cat", (40, 40, 160, 200))], seed=17)
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


class Elements(HTMLParser):
    """The tags and addresses of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_every_fault_and_oddity_is_found_and_no_file_is_changed(
    faulty_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(faulty_folder)
    assert cli.run(["inspect", f"data={faulty_folder}", f"output={tmp_path / 'report'}"]) == 1
    assert contents(faulty_folder) == before
    found = json.loads((tmp_path / "report/inspection.json").read_text())
    assert sorted(fault["image"] for fault in found["faults"]) == ["cut", "outside"]
    odd = {item["kind"]: (item["count"], item["first"]) for item in found["oddities"]}

    def cases(words: str) -> list[str]:
        (kind,) = [kind for kind in odd if kind.startswith(words) or f" {words}" in kind]
        return list(odd[kind][1])

    assert cases("the same picture in train and test:")[0].endswith("leak")
    assert cases("nearly the same picture in train and test")[0].endswith("near")
    assert [case.split(": ")[1] for case in cases("drawn twice")] == ["cat"]
    assert any("empty" in case for case in cases("without objects"))
    assert {case.split(": ")[0] for case in cases("below 2 cells")} == {"tiny", "thin"}
    assert "thin: cat" in cases("without a planned anchor")
    assert cases("with an EXIF rotation") == ["turned"]
    assert any("nearly 'cat'" in case for case in cases("odd class names"))
    printed = capsys.readouterr().out
    assert "fault: " in printed
    assert "odd: boxes drawn twice: 1" in printed
    assert re.search(r"^2 faults, \d+ oddities$", printed, re.MULTILINE)


def test_the_page_is_self_contained(faulty_folder: Path, tmp_path: Path) -> None:
    cli.run(["inspect", f"data={faulty_folder}", f"output={tmp_path / 'report'}"])
    page = Elements()
    page.feed((tmp_path / "report/inspection.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert "script" not in page.tags
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in page.links)
    assert page.tags.count("image") >= 6, "pictures with their boxes"


def test_a_corrected_copy_trains(faulty_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(faulty_folder)
    assert cli.run(["inspect", f"data={faulty_folder}", f"fix={tmp_path / 'mended'}", "dataset.rename={Cat:cat}"]) == 1
    assert contents(faulty_folder) == before
    capsys.readouterr()
    assert cli.run(["inspect", f"data={tmp_path / 'mended'}"]) == 0
    folder = Folder(tmp_path / "mended")
    count = {item.image_id: len(item.boxes) for side in (folder.train, folder.test) for item in side.annotations}
    assert "cut" not in count
    assert (count["outside"], count["twice"], count["empty"], count["tiny"]) == (1, 1, 0, 2)
    assert folder.train.classes == ("cat",)


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        ((160, 40, 40, 200), (39, 39, 160, 200)),  # x exchanged
        ((160, 200, 40, 40), (39, 39, 160, 200)),  # both
        ((303, 40, 200, 190), (199, 39, 300, 190)),  # exchanged, then 3 pixels beyond the edge
        ((-4, 40, 12, 200), (0, 39, 12, 200)),  # 5 pixels before the edge, more than a tenth
        ((291, 40, 305, 200), (290, 39, 300, 200)),
        ((291, 40, 306, 200), None),  # 6 pixels
        ((298, 40, 305, 200), None),  # mostly outside
        ((160, 40, 160, 200), None),  # one pixel wide
        ((40, 41, 160, 40), None),  # a height of 0
        (("nan", 40, 160, 200), None),
        ((400, 40, 460, 200), None),
    ],
)
def test_faulty_boxes_are_corrected_by_a_rule_or_left_out(
    tmp_path: Path, corners: tuple[int, int, int, int], expected: tuple[int, int, int, int] | None
) -> None:
    root = tmp_path / "boxes"
    add(root, "train/0", [("cat", corners), ("cat", (1, 1, 20, 20))], seed=0)
    add(root, "test/1", [("cat", (1, 1, 100, 100))], seed=1)
    assert cli.run(["inspect", f"data={root}", f"fix={tmp_path / 'mended'}"]) == 1
    assert cli.run(["inspect", f"data={tmp_path / 'mended'}"]) == 0
    found = Folder(tmp_path / "mended").train.annotations[0].boxes.tolist()
    assert found == [*([list(expected)] if expected else []), [0, 0, 20, 20]]


def test_corners_that_are_no_pixel_numbers_are_exchanged_as_they_are() -> None:
    item = MarkedObject("cat", (30.0, 10.0, 20.0, 25.0), "a.csv: line 1", "")
    assert corrected_box(item, 100, 100) == (item._replace(box=(20.0, 10.0, 30.0, 25.0)), "corners exchanged")


def test_of_copies_with_the_same_boxes_one_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Copies with other boxes stay. A training picture with a copy in the test split does not."""
    root = tmp_path / "copies"
    other: Objects = [("cat", (10, 10, 100, 100))]
    for name, objects, seed in (
        ("train/0", PLAIN, 0), ("train/again", PLAIN, 0), ("train/other", other, 0),
        ("train/1", PLAIN, 1), ("test/leak", other, 1), ("test/2", PLAIN, 2), ("test/again2", PLAIN, 2),
    ):  # fmt: skip
        add(root, name, objects, seed=seed)
    cli.run(["inspect", f"data={root}", f"fix={tmp_path / 'mended'}"])
    folder = Folder(tmp_path / "mended")
    assert [item.image_id for item in folder.train.annotations] == ["0", "other"]
    assert [item.image_id for item in folder.test.annotations] == ["2", "leak"]
    printed = "".join(capsys.readouterr())
    assert "1 pictures are in both splits" in printed
    assert "1 training pictures repeat another" in printed
    assert "1 test pictures repeat another" in printed


def test_class_names_change_only_by_a_given_mapping(tmp_path: Path) -> None:
    root = tmp_path / "names"
    for number, name in enumerate(("cat", "cat", "Cat")):
        add(root, f"{'test' if number == 1 else 'train'}/{number}", [(name, (40, 40, 160, 200))], seed=number)
    cli.run(["inspect", f"data={root}", f"fix={tmp_path / 'plain'}"])
    assert Folder(tmp_path / "plain").train.classes == ("Cat", "cat")
    cli.run(["inspect", f"data={root}", f"fix={tmp_path / 'mapped'}", "dataset.rename={Cat:cat}"])
    assert Folder(tmp_path / "mapped").train.classes == ("cat",)


def test_a_picture_of_both_splits_stays_in_the_test_split(tmp_path: Path) -> None:
    root, lists = tmp_path / "tree", tmp_path / "tree/ImageSets/Main"
    lists.mkdir(parents=True)
    for number in range(4):
        picture = add(root, f"JPEGImages/{number}", PLAIN, seed=number)
        (root / "Annotations").mkdir(exist_ok=True)
        picture.with_suffix(".xml").rename(root / f"Annotations/{number}.xml")
    (lists / "train.txt").write_text("0\n1\n2\n")
    (lists / "test.txt").write_text("2\n3\n")
    cli.run(["inspect", f"data={root}", f"fix={tmp_path / 'mended'}"])
    folder = Folder(tmp_path / "mended")
    assert [item.image_id for item in folder.train.annotations] == ["0", "1"]
    assert [item.image_id for item in folder.test.annotations] == ["2", "3"]


def test_anchors_and_stride_are_the_plans(tmp_path: Path) -> None:
    """Anchors fit the boxes, however long they are; a given stride replaces the plan's."""
    root = tmp_path / "thin"
    for number in range(6):
        add(root, f"train/{number}", [("rod", (10, 40 + number, 290, 64 + number))], seed=number)
    add(root, "test/6", [("rod", (10, 40, 290, 64))], seed=6)
    cli.run(["inspect", f"data={root}", f"output={tmp_path / 'report'}"])
    kinds = [odd["kind"] for odd in json.loads((tmp_path / "report/inspection.json").read_text())["oddities"]]
    assert not any("no anchor" in kind for kind in kinds)
    cli.run(["inspect", f"data={root}", f"output={tmp_path / 'report'}", "stride=64", "input.test_short_side=250"])
    odd = json.loads((tmp_path / "report/inspection.json").read_text())["oddities"]
    assert [item["count"] for item in odd if item["kind"].endswith("(stride 64)")] == [7]


def test_augment_draws_training_samples(faulty_folder: Path, tmp_path: Path) -> None:
    words = ["inspect", f"data={faulty_folder}", f"output={tmp_path / 'report'}"]
    cli.run(words)
    plain = (tmp_path / "report/inspection.html").read_text(encoding="utf-8")
    cli.run([*words, "augment=true", "input.color_jitter=0.5", "input.short_sides=[200]"])
    page = (tmp_path / "report/inspection.html").read_text(encoding="utf-8")
    assert page.count("<image ") == plain.count("<image ") + 12
    assert "Training samples" in page
    assert page.count("shorter side 200 px") == 12
    cli.run([*words, "augment=true"])
    page = (tmp_path / "report/inspection.html").read_text(encoding="utf-8")
    sides = {int(side) for side in re.findall(r"shorter side (\d+) px", page)}
    folder = Folder(faulty_folder, leave_out_faulty=True)
    planned = planned_map(folder.train, schema.InputConfig(), set(), None)
    assert sides
    assert sides <= set(planned.short_sides), "the sizes of the plan"


def test_augment_draws_crops_and_mosaics_of_readable_pictures(faulty_folder: Path, tmp_path: Path) -> None:
    """The unreadable picture of the folder is never a part of a mosaic."""
    words = ["inspect", f"data={faulty_folder}", f"output={tmp_path / 'report'}", "augment=true"]
    for settings in (["input.mosaic=1"], ["input.crop=0.3", "input.scale_jitter=[2,2]", "input.short_sides=[200]"]):
        assert cli.run([*words, *settings]) == 1
        page = (tmp_path / "report/inspection.html").read_text(encoding="utf-8")
        assert page.count("shorter side") == 12
    assert cli.run([*words, "input.mosaic=3"]) == 2


def test_a_file_name_that_is_not_utf_8_is_written_as_text(tmp_path: Path) -> None:
    root = tmp_path / "data"
    formats.labelimg(root)
    for suffix in (b"jpg", b"xml"):
        os.rename(root / f"train/a.{suffix.decode()}", os.fsencode(root) + b"/train/phot\xe9." + suffix)
    os.rename(root / "train/b c.xml", os.fsencode(root) + b"/train/gone\xe9.xml")
    assert cli.run(["inspect", f"data={root}", f"output={tmp_path / 'report'}"]) == 1
    page = (tmp_path / "report/inspection.html").read_text(encoding="utf-8")
    assert "train/gone\\udce9.xml: no picture of this name" in page
    found = json.loads((tmp_path / "report/inspection.json").read_text())
    assert found["images"] == {"train": 1, "test": 1}
    folder = open_folder(schema.AutoDatasetConfig(root=str(root)), leave_out_faulty=True)
    assert [item.image_id for item in folder.train.annotations] == ["phot\\udce9"]


def test_repeated_boxes_are_found_among_thousands() -> None:
    """A box is repeated if an earlier one of its class has an IoU of 0.9 or more: compared pair by pair."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(1300, 2, generator=generator) * 50
    boxes = torch.cat((corners, corners + 1 + 60 * torch.rand(1300, 2, generator=generator)), 1)
    boxes[650:] = boxes[:650] + torch.rand(650, 4, generator=generator) / 2
    boxes = boxes[torch.randperm(1300, generator=generator)]
    labels = torch.randint(1, 3, (1300,), generator=generator)
    no = torch.zeros(1300, dtype=torch.bool)
    found = drawn_before(Annotation("dense", 200, 200, boxes, labels, no, no, no))
    same = (torch.triu(iou(boxes, boxes), diagonal=1) >= DUPLICATE_IOU) & (labels[:, None] == labels[None])
    assert torch.equal(found, same.any(0))
    assert 100 < int(found.sum()) < 600


@pytest.mark.parametrize("words", [["augment=true"], ["augment=yes", "output=x"]])
def test_augment_needs_a_page(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["inspect", "data=x", *words]) == 2
    assert "augment=true draws on the page, so it needs output=FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["data="], ["data=x", "stride=0"], ["data=x", "stride=wide"]])
def test_wrong_words_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["inspect", *words]) == 2
    assert "inspect needs data=FOLDER" in capsys.readouterr().err


def test_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["inspect", "--help"]) == 0
    assert "usage: detector inspect" in capsys.readouterr().out
