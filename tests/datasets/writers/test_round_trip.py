"""Written folders and shards read back the same: classes, boxes, splits, and the bytes of the pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detector.datasets.faults import FaultyDataError
from detector.datasets.folder import Folder
from detector.datasets.sample import Annotation
from detector.datasets.writers.coco import write_coco
from detector.datasets.writers.shards import write_shards
from detector.datasets.writers.sides import Side
from detector.datasets.writers.voc import write_voc
from detector.datasets.writers.yolo import write_yolo
from detector.tools import cli
from detector.tools.commands.dataset import run_dataset

Writer = Callable[[Path, Sequence[Side], Sequence[str]], list[str]]
WRITERS: dict[str, Writer] = {"voc": write_voc, "coco": write_coco, "yolo": write_yolo, "shards": write_shards}


def make(folder: Path, seed: int = 0) -> list[Side]:
    """Return pictures of random sizes with random boxes. The first of each split has no objects."""
    rng = np.random.default_rng(seed)
    sides = []
    for name, count in (("train", 5), ("test", 3)):
        annotations, files = [], []
        for number in range(count):
            width, height = (int(value) for value in rng.integers(20, 90, 2))
            path = folder / f"{name}/{number} {name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)).save(path)
            objects = int(rng.integers(1, 5)) if number else 0
            corners = torch.from_numpy(rng.uniform(0, 1, (objects, 4)).astype(np.float32))
            corners = torch.cat((corners[:, :2] * 0.5, 0.55 + corners[:, 2:] * 0.45), 1)
            boxes = corners * torch.tensor([width, height, width, height])
            labels = torch.tensor([1 + (number + place) % 2 for place in range(objects)], dtype=torch.int64)
            flags = torch.zeros(objects, dtype=torch.bool)
            flags[1:2] = number == 2
            none = torch.zeros(objects, dtype=torch.bool)
            annotations.append(Annotation(f"{name}/{number} {name}", width, height, boxes, labels, flags, none, none))
            files.append(path)
        sides.append(Side(name, annotations, files))
    return sides


def as_sides(folder: Folder) -> list[Side]:
    pairs = (("train", folder.train), ("test", folder.test))
    return [Side(name, side.annotations, side.files) for name, side in pairs]


def require_same(found: Sequence[Side], expected: Sequence[Side], *, flags: bool) -> None:
    for one, other in zip(found, expected, strict=True):
        ours = dict(zip([item.image_id for item in one.annotations], zip(*one[1:], strict=True), strict=True))
        for item, file in zip(other.annotations, other.files, strict=True):
            mine, path = ours.pop(item.image_id.replace("/", "_"))
            assert path.read_bytes() == file.read_bytes()
            assert (mine.width, mine.height) == (item.width, item.height)
            torch.testing.assert_close(mine.boxes, item.boxes, atol=1e-4, rtol=0)
            assert torch.equal(mine.labels, item.labels)
            if flags:
                assert torch.equal(mine.difficult, item.difficult)
        assert not ours


@pytest.mark.parametrize("name", WRITERS)
def test_a_written_folder_reads_back(tmp_path: Path, name: str) -> None:
    sides = make(tmp_path / "source")
    WRITERS[name](tmp_path / name, sides, ("cat", "dog"))
    folder = Folder(tmp_path / name)
    assert folder.train.classes == ("cat", "dog")
    require_same(as_sides(folder), sides, flags=name != "yolo")


def test_conversions_between_formats_keep_the_data(tmp_path: Path) -> None:
    sides = make(tmp_path / "source", seed=1)
    names = ["voc", "coco", "yolo", "shards", "coco", "shards", "voc"]
    WRITERS["voc"](tmp_path / "0_voc", sides, ("cat", "dog"))
    for number, (before, name) in enumerate(pairwise(names), start=1):
        folder = Folder(tmp_path / f"{number - 1}_{before}")
        WRITERS[name](tmp_path / f"{number}_{name}", as_sides(folder), folder.train.classes)
    require_same(as_sides(Folder(tmp_path / f"{len(names) - 1}_voc")), sides, flags=False)


def test_losses_of_a_format_are_reported(tmp_path: Path) -> None:
    sides = make(tmp_path / "source")
    sides[0].annotations[1].boxes[0] = torch.tensor([3.0, 3.0, 3.5, 9.0])
    assert write_voc(tmp_path / "voc", sides, ("cat", "dog")) == [
        "1 boxes of one pixel or less are left out: VOC's corners are pixel numbers"
    ]
    assert write_yolo(tmp_path / "yolo", sides, ("cat", "dog")) == [
        f"{sum(int(item.difficult.sum()) for side in sides for item in side.annotations)} difficult objects become "
        "ordinary objects: YOLO has no flags"
    ]


@pytest.mark.parametrize("name", WRITERS)
def test_existing_files_are_not_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="already exists"):
        WRITERS[name](tmp_path / "full", make(tmp_path / "source"), ("cat", "dog"))
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_the_dataset_command_converts_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_coco(tmp_path / "source", make(tmp_path / "made"), ("cat", "dog"))
    words = ["dataset", f"source={tmp_path / 'source'}", f"output={tmp_path / 'out'}"]
    assert cli.run([*words, "format=yolo", "dataset.rename={dog:wolf}"]) == 0
    assert Folder(tmp_path / "out").train.classes == ("cat", "wolf")
    assert cli.run([*words, "format=pickle"]) == 2
    assert "format=pickle: expected one of voc, coco, yolo, shards" in capsys.readouterr().err
    assert cli.run(words) == 2
    assert cli.run([*words, "format=voc"]) == 1
    assert "already exists" in capsys.readouterr().err
    assert cli.run(["dataset", "--help"]) == 0


def test_a_picture_of_another_size_is_not_converted(tmp_path: Path) -> None:
    """Its boxes would become wrong fractions."""
    write_voc(tmp_path / "voc", make(tmp_path / "source"), ("cat", "dog"))
    first = next(iter(sorted((tmp_path / "voc/JPEGImages").iterdir())))
    Image.new("RGB", (99, 7)).save(first)
    with pytest.raises(FaultyDataError, match=r"the image is 99x7, its annotation says"):
        run_dataset(tmp_path / "voc", tmp_path / "yolo", "yolo", [])
    run_dataset(tmp_path / "voc", tmp_path / "yolo", "yolo", ["dataset.on_unreadable=skip"])
    assert len(list((tmp_path / "yolo/images").rglob("*.png"))) == 7


@pytest.mark.parametrize("turn", [1, 5, 6, 7, 8])
def test_yolo_boxes_are_of_the_picture_that_viewers_show(tmp_path: Path, turn: int) -> None:
    """The boxes are of the pictures as stored, which VOC states by their size."""
    exif, none = Image.Exif(), torch.zeros(1, dtype=torch.bool)
    exif[0x0112] = turn
    sides = []
    for number, name in enumerate(("train", "test")):
        pixels = np.zeros((48, 80, 3), np.uint8)
        pixels[8:24, 40 + 8 * number : 72] = 255
        Image.fromarray(pixels).save(tmp_path / f"{name}.jpg", exif=exif)
        box, label = torch.tensor([[40.0 + 8 * number, 8, 72, 24]]), torch.ones(1, dtype=torch.int64)
        sides.append(Side(name, [Annotation(name, 80, 48, box, label, none, none, none)], [tmp_path / f"{name}.jpg"]))
    write_yolo(tmp_path / "yolo", sides, ("bright",))
    folder = Folder(tmp_path / "yolo")
    for side in (folder.train, folder.test):
        x1, y1, x2, y2 = side.annotations[0].boxes[0].round().int().tolist()
        image = side.image(0).float()
        assert image.shape == ((3, 48, 80) if turn == 1 else (3, 80, 48))
        inside = image[:, y1:y2, x1:x2]
        assert inside.min() > 150
        assert image.sum() - inside.sum() < 0.05 * inside.sum()
