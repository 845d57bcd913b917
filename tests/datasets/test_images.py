"""Pictures of more than 8 bits are scaled to the bit depth of their camera. A picture of one grey gives a warning."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageOps

from detector.datasets.bit_depth import common_depth
from detector.datasets.images import read_image, to_pixels


def deep(path: Path, values: np.ndarray) -> Path:  # type: ignore[type-arg]
    Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_the_full_range_of_a_bit_depth_becomes_0_to_255(tmp_path: Path, bits: int, suffix: str) -> None:
    ramp = np.linspace(0, 2**bits - 1, 256).round().astype(np.uint16).reshape(16, 16)
    path = deep(tmp_path / f"a{suffix}", ramp)
    expected = torch.from_numpy((ramp >> (bits - 8)).astype(np.uint8)).expand(3, -1, -1)
    assert torch.equal(read_image(path), expected)
    assert torch.equal(read_image(path, bit_depth=bits), expected)
    assert read_image(path).max() == 255


def test_a_given_bit_depth_keeps_dim_pictures_dim(tmp_path: Path) -> None:
    path = deep(
        tmp_path / "a.png", np.full((4, 4), 1000, np.uint16) + np.arange(16, dtype=np.uint16).reshape(4, 4) * 60
    )
    assert read_image(path, bit_depth=16).max() == 1900 >> 8
    assert read_image(path, bit_depth=12).max() == 1900 >> 4
    assert read_image(path).max() == 1900 >> 4, "no camera has 11 bits"


@pytest.mark.parametrize(("high", "brightest"), [(1.0, 255), (0.5, 128), (255.0, 255), (200.0, 200), (4095.0, 255)])
def test_float_pictures_are_scaled_by_their_range(tmp_path: Path, high: float, brightest: int) -> None:
    ramp = np.linspace(0, high, 64, dtype=np.float32).reshape(8, 8)
    assert read_image(deep(tmp_path / "a.tif", ramp)).max() == brightest


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 1e6])
def test_values_that_cannot_be_scaled_are_refused(tmp_path: Path, value: float) -> None:
    ramp = np.linspace(0, 100, 64, dtype=np.float32).reshape(8, 8)
    ramp[3, 3] = value
    path = deep(tmp_path / "a.tif", ramp)
    with pytest.raises(ValueError, match="its values go from") as error:
        read_image(path)
    assert str(error.value).startswith(str(path))


def test_a_picture_that_becomes_one_grey_gives_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = deep(tmp_path / "a.png", np.arange(64, dtype=np.uint16).reshape(8, 8))
    with caplog.at_level(logging.WARNING, "detector"):
        read_image(path, bit_depth=16)
    assert f"{path}: nearly one grey (0 to 0 of 255)" in caplog.text


def test_a_dataset_has_one_bit_depth(tmp_path: Path) -> None:
    """The brightest picture sets the bit depth of all."""
    maxima = (300, 3900, 700)
    files = [deep(tmp_path / f"{m}.png", np.linspace(0, m, 64).astype(np.uint16).reshape(8, 8)) for m in maxima]
    assert common_depth(files) == 12
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "plain.png")
    assert common_depth([tmp_path / "plain.png"]) is None
    assert common_depth([deep(tmp_path / "unit.tif", np.ones((8, 8), np.float32))]) is None


def test_8_bit_pictures_are_unchanged() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert torch.equal(to_pixels(Image.fromarray(values)), torch.from_numpy(values).expand(3, -1, -1))


def test_a_picture_that_needs_too_much_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = deep(tmp_path / "a.png", np.zeros((4, 4), np.uint8))

    def refuse(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", refuse)
    with pytest.raises(MemoryError, match=r"a\.png: not enough memory to decode this image; make it smaller"):
        read_image(path)


def decoded_by_pillow(path: Path) -> torch.Tensor:
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


def textured(height: int, width: int) -> Image.Image:
    coarse = np.random.default_rng(height * width).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("size", [(1, 1), (17, 33), (63, 64)])
def test_a_jpeg_has_the_values_that_pillow_reads(
    tmp_path: Path, size: tuple[int, int], subsampling: int, progressive: bool, mode: str
) -> None:
    assert torchvision.__version__, "loaded, so JPEGs are decoded with it"
    path = tmp_path / "a.jpg"
    textured(*size).convert(mode).save(path, subsampling=subsampling, progressive=progressive, quality=85)
    assert torch.equal(read_image(path), decoded_by_pillow(path))


def test_a_jpeg_without_its_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    textured(120, 160).save(path, quality=95)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match="cannot decode this image") as error:
        read_image(path)
    assert str(path) in str(error.value)


def test_damaged_jpegs_are_read_or_refused_as_pillow_does(tmp_path: Path) -> None:
    path, random = tmp_path / "a.jpg", np.random.default_rng(0)
    textured(60, 80).save(path, quality=80)
    whole = path.read_bytes()
    outcomes = set()
    for _ in range(200):
        data = bytearray(whole)
        for place in random.integers(0, len(data) - 2, size=2):
            data[place] = random.integers(256)
        path.write_bytes(data)
        try:
            expected = decoded_by_pillow(path)
        except (OSError, SyntaxError, ValueError):
            with pytest.raises(ValueError, match="cannot decode this image"):
                read_image(path)
            outcomes.add("refused")
        else:
            assert torch.equal(read_image(path), expected)
            outcomes.add("read")
    assert outcomes == {"read", "refused"}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_jpeg_only_when_asked(tmp_path: Path, orientation: int) -> None:
    path, exif = tmp_path / "a.jpg", Image.Exif()
    exif[0x0112] = orientation
    textured(40, 60).save(path, exif=exif)
    with Image.open(path) as picture:
        upright = torch.from_numpy(np.array(ImageOps.exif_transpose(picture))).permute(2, 0, 1)
    assert torch.equal(read_image(path), decoded_by_pillow(path))
    assert torch.equal(read_image(path, upright=True), upright)
