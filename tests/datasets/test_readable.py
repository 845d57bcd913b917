"""Unreadable pictures of every format are found before training, by their headers and ends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detector.configs import schema
from detector.datasets.augment import TrainingView
from detector.datasets.build import build_datasets, build_proposals, readable_dataset
from detector.datasets.faults import FaultyDataError
from detector.datasets.images import read_image
from detector.datasets.picture_check import check_picture, check_pictures

BOX = (1, 1, 20, 15)


def save(path: Path, size: tuple[int, int] = (200, 150), **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]
    return path.read_bytes()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".webp"])
def test_intact_pictures_pass(tmp_path: Path, suffix: str) -> None:
    save(tmp_path / f"a{suffix}")
    assert check_picture(tmp_path / f"a{suffix}") == ((200, 150), 1, None)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".webp"])
@pytest.mark.parametrize("missing", [20, 500, 5000])
def test_a_missing_end_is_found(tmp_path: Path, suffix: str, missing: int) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(save(path)[:-missing])
    problem = check_picture(path).problem
    if (suffix, missing) == (".png", 20):  # only the end mark is missing: every pixel is there
        assert problem is None
        assert read_image(path).shape == (3, 150, 200)
        return
    assert problem is not None
    assert problem.startswith(f"{path}: cannot be read (")
    with pytest.raises(ValueError, match="cannot decode"):
        read_image(path)


@settings(max_examples=30)
@given(st.integers(0, 30_000))
def test_a_jpeg_cut_at_any_length_is_found(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.jpg"
    whole = save(path, exif=thumbnail())
    path.write_bytes(whole[: min(length, len(whole) - 3)])
    assert check_picture(path).problem is not None


def thumbnail() -> Image.Exif:
    """Return EXIF data that holds a small JPEG with its own end mark."""
    exif = Image.Exif()
    exif[0x010E] = "\u00ff\u00d9" * 50
    exif[0x927C] = b"\xff\xd8\xff\xd9" * 20
    return exif


@pytest.mark.parametrize("after_pixels", [False, True])
def test_exif_of_a_png_is_found_before_and_after_its_pixels(tmp_path: Path, after_pixels: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.png"
    content = save(path, exif=exif)
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    if after_pixels:
        path.write_bytes(content[:start] + content[end:-12] + content[start:end] + content[-12:])
    assert check_picture(path) == ((200, 150), 6, None)


def test_bytes_after_the_end_of_a_jpeg_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(save(path) + b"made by a camera" * 30)
    assert check_picture(path).problem is None
    path.write_bytes(save(path) + bytes(50_000))
    assert check_picture(path).problem is None


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "it is empty"), (b"no picture" * 9, "no picture of a known format")]
)
def test_files_that_are_not_pictures_are_found(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    found = check_pictures([tmp_path / "a.jpg", tmp_path / "gone.jpg"])
    assert message in str(found[0].problem)
    assert "no such image" in str(found[1].problem)


def broken(voc: Any, where: tuple[str, ...] = ("b", "dddd")) -> schema.VOCDatasetConfig:
    for split in ("train", "test"):
        for name in ("a", "b", "ccc", "dddd", "eeeee"):
            voc.add(split, f"{split}_{name}", [("cell", BOX)], suffix=".jpg")
            path = voc.folder / f"JPEGImages/{split}_{name}.jpg"
            if name in where:
                path.write_bytes(path.read_bytes()[:-30])
    return schema.VOCDatasetConfig(root=str(voc.root), train="train", test="test")


def test_building_datasets_lists_every_unreadable_picture(voc: Any) -> None:
    with pytest.raises(FaultyDataError, match="on_unreadable=skip") as error:
        build_datasets(broken(voc))
    assert [fault.image_id for fault in error.value.faults] == ["train_b", "train_dddd"]


def test_a_wrong_size_is_also_found(voc: Any) -> None:
    config = broken(voc, where=())
    save(voc.folder / "JPEGImages/test_ccc.jpg", size=(30, 40))
    with pytest.raises(FaultyDataError, match="the image is 30x40, its annotation says 40x30"):
        build_datasets(config)


def test_skipped_pictures_are_reported_and_replaced_by_others(voc: Any, caplog: pytest.LogCaptureFixture) -> None:
    config = broken(voc)
    config.on_unreadable = schema.OnUnreadable.skip
    with caplog.at_level(logging.WARNING, "detector"):
        train, test = build_datasets(config)
    assert "train: 2 of 5 pictures cannot be used and are skipped (first: " in caplog.text
    assert [item.image_id for item in test.annotations] == ["test_a", "test_ccc", "test_eeeee"]
    assert test.image(2).shape == (3, 30, 40)
    assert len(train.annotations) == 5
    make: Callable[[], TrainingView] = lambda: TrainingView(  # noqa: E731
        train, None, flip=True, short_sides=(30,), seed=1, skip_unreadable=True
    )
    seen = [make()[epoch, 1] for epoch in range(40)]
    ids = {sample.annotation.image_id for sample in seen}
    assert ids == {"train_a", "train_ccc", "train_eeeee"}
    again = make()
    for epoch in reversed(range(40)):  # independent of earlier samples
        other = again[epoch, 1]
        assert torch.equal(other.image, seen[epoch].image)
        assert other.annotation.image_id == seen[epoch].annotation.image_id
    assert again.num_skipped >= 40
    with pytest.raises(ValueError, match="cannot decode this image"):
        TrainingView(train, None, flip=True, short_sides=(30,), seed=1)[0, 1]


def test_a_mosaic_replaces_unreadable_pictures_too(voc: Any) -> None:
    config = broken(voc)
    config.on_unreadable = schema.OnUnreadable.skip
    train, _ = build_datasets(config)
    make: Callable[..., TrainingView] = lambda skip: TrainingView(  # noqa: E731
        train, None, flip=False, mosaic=1.0, short_sides=(30,), seed=1, skip_unreadable=skip
    )
    first, again = make(True), make(True)
    for epoch in range(10):
        sample = first[epoch, 0]
        assert len(sample.annotation.boxes) == 4, "one object of each picture"
        assert torch.equal(again[epoch, 0].image, sample.image)
    assert first.num_skipped > 0
    with pytest.raises(ValueError, match="cannot decode this image"):
        [make(False)[epoch, 0] for epoch in range(10)]


def test_skipped_pictures_need_no_proposals(voc: Any) -> None:
    config = broken(voc)
    config.on_unreadable = schema.OnUnreadable.skip
    train, _ = build_datasets(config)
    grid = schema.GridProposalsConfig(scales=[16], aspects=[1.0])
    source = build_proposals(grid, train, "train")
    assert source is not None
    assert [len(source.boxes(index)) > 0 for index in range(5)] == [True, False, True, False, True]
    assert torch.equal(source.boxes(4), build_proposals(grid, train.readable, "train").boxes(2))  # type: ignore[attr-defined, union-attr]
    readable = readable_dataset(config, "train")
    assert [item.image_id for item in readable.annotations] == ["train_a", "train_ccc", "train_eeeee"]


def test_skipping_does_not_change_samples_of_readable_pictures(voc: Any) -> None:
    train, _ = build_datasets(broken(voc, where=()))
    views = [
        TrainingView(train, None, flip=True, short_sides=(30, 40), seed=1, skip_unreadable=s) for s in (False, True)
    ]
    for epoch in range(5):
        one, other = (view[epoch, 2] for view in views)
        assert torch.equal(one.image, other.image)
        assert (one.seed, one.short_side) == (other.seed, other.short_side)


def test_a_split_without_readable_pictures_is_refused(voc: Any) -> None:
    config = broken(voc, where=("a", "b", "ccc", "dddd", "eeeee"))
    config.on_unreadable = schema.OnUnreadable.skip
    with pytest.raises(FaultyDataError):
        build_datasets(config)


def test_pictures_rotated_by_exif_are_reported(voc: Any, caplog: pytest.LogCaptureFixture) -> None:
    config = broken(voc, where=())
    path = voc.folder / "JPEGImages/train_a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    save(path, size=(30, 40), exif=exif)
    with caplog.at_level(logging.INFO, "detector"):
        train, _ = build_datasets(config)
    assert "1 pictures are rotated by EXIF" in caplog.text
    assert "their annotation fits without it" not in caplog.text
    assert train.image(0).shape == (3, 30, 40)


def test_an_exif_rotation_that_is_ignored_gives_a_warning(voc: Any, caplog: pytest.LogCaptureFixture) -> None:
    config = broken(voc, where=())
    exif = Image.Exif()
    exif[0x0112] = 3
    save(voc.folder / "JPEGImages/train_a.jpg", size=(40, 30), exif=exif)
    build_datasets(config)
    assert "1 pictures have an EXIF rotation, but their annotation fits without it; " in caplog.text
    assert "do their boxes fit? (first: train_a)" in caplog.text
