"""Reads pictures from disk as tensors, with one clear error for pictures that cannot be read."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from detector.datasets.tar_shards import File
from detector.datasets.unreadable import reason_of

log = logging.getLogger("detector")

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".jfif", ".ppm", ".pgm")
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
JPEG_END = b"\xff\xd9"
ORIENTATION = 0x0112  # the EXIF tag
ROTATED = (5, 6, 7, 8)  # the EXIF orientations that exchange width and height
DEPTHS = (8, 10, 12, 14, 16)  # bit depths of cameras
CONSTANT = 8  # a picture with fewer grey levels, of 255, is nearly uniform


@contextmanager
def open_picture(path: File) -> Iterator[Image.Image]:
    """Open a picture for Pillow, which reads its header."""
    with path.open("rb") as file, Image.open(file) as picture:
        yield picture


def read_image(
    path: File, *, upright: bool = False, bit_depth: int | None = None, size: tuple[int, int] | None = None
) -> Tensor:
    """Return the picture [3, H, W] uint8 RGB with its pixels as stored, since annotated boxes refer to these.

    In memory the channels come last.

    With `upright`, rotate it as EXIF says, for pictures outside of a dataset. Do the same if only the rotated picture
    has the `size` (width, height) of its annotation: then the annotation tool showed the picture rotated.

    Grey, palette, CMYK and transparent pictures are converted; for more than 8 bits see `to_pixels`. Raises ValueError
    naming the file if it is missing or damaged, MemoryError if memory is too small.
    """
    try:
        data = path.read_bytes()
        with Image.open(BytesIO(data)) as picture:
            if size is not None and picture.size != size and picture.size[::-1] == size:
                upright = upright or picture.getexif().get(ORIENTATION) in ROTATED
            pixels = _decode_whole_jpeg(data, picture, upright=upright)
            if pixels is None:
                pixels = to_pixels(picture, upright=upright, bit_depth=bit_depth)
            deep = picture.mode.startswith(("I", "F"))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such image; restore it or remove its id from the image list") from error
    except UNREADABLE as error:
        raise ValueError(
            f"{path}: cannot decode this image ({reason_of(path, error)}); replace it or remove it from the image list"
        ) from error
    except MemoryError as error:
        raise MemoryError(
            f"{path}: not enough memory to decode this image; make it smaller, or load fewer images at once"
        ) from error
    if deep and int(pixels.max()) - int(pixels.min()) < CONSTANT:
        log.warning("%s: nearly one grey (%d to %d of 255); is its bit depth right?", path, pixels.min(), pixels.max())
    return pixels


def _decode_whole_jpeg(data: bytes, picture: Image.Image, *, upright: bool) -> Tensor | None:
    """Decode an ordinary JPEG with torchvision: the same values as Pillow's in less than half of the time.

    Return None if Pillow must decode it: another format, other colors, a rotation, or a file without its end. Pillow
    refuses such a file, and torchvision fills the rest with grey. Return None too if torchvision is not loaded:
    loading it takes as long as decoding 1,500 pictures, and commands that only read a data set do not need it.
    """
    is_plain = picture.format == "JPEG" and picture.mode in ("RGB", "L")
    if "torchvision" not in sys.modules or not is_plain or not data.rstrip(b"\0\r\n ").endswith(JPEG_END):
        return None
    if upright and picture.getexif().get(ORIENTATION, 1) != 1:
        return None
    from torchvision.io import ImageReadMode, decode_jpeg

    try:
        pixels: Tensor = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    except RuntimeError:  # Pillow finds the reason
        return None
    return pixels


def to_pixels(picture: Image.Image, *, upright: bool = False, bit_depth: int | None = None) -> Tensor:
    """Return a PIL picture as [3, H, W] uint8 RGB, without transparency.

    A grey picture with more than 8 bits is scaled from the range of `bit_depth`, 0 to 2^bits - 1, to 0 to 255. None
    takes the smallest of 8, 10, 12, 14 and 16 bits that holds the picture's maximum, so that pictures of a 12-bit
    camera in 16-bit files keep their brightness. Float pictures are read the same way, or as 0 to 1 if no value is
    larger. Raises ValueError for values that are negative, not finite or beyond 16 bits.
    """
    if upright:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith(("I", "F")):  # Pillow would cut values off at 255, so the picture would be almost white
        picture = Image.fromarray(_eight_bits(np.asarray(picture), bit_depth))
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


def _eight_bits(values: npt.NDArray[Any], bit_depth: int | None) -> npt.NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high < 2 ** DEPTHS[-1]):  # NaN too
        raise ValueError(f"its values go from {low:g} to {high:g}; expected 0 to {2 ** DEPTHS[-1] - 1}, or 0 to 1")
    if bit_depth is None and values.dtype.kind == "f" and high <= 1:
        return np.asarray(np.round(values * 255), dtype=np.uint8)
    bits = bit_depth or depth_of(high)
    return np.asarray(np.minimum(values.astype(np.float32) * (256 / 2**bits), 255), dtype=np.uint8)


def depth_of(maximum: float) -> int:
    """Return the smallest bit depth of a camera that holds this value."""
    return next(bits for bits in DEPTHS if maximum < 2**bits or bits == DEPTHS[-1])


def read_size(path: File) -> tuple[int, int]:
    """Return width and height from the picture's header. Raises ValueError if it cannot be read."""
    try:
        with open_picture(path) as picture:
            return picture.size
    except UNREADABLE as error:
        raise ValueError(f"{path}: cannot read this image's size ({reason_of(path, error)}); replace it") from error


def read_turn(path: File) -> tuple[tuple[int, int], int]:
    """Return width and height from the picture's header, and the EXIF orientation of a JPEG; 1 for other pictures.

    Cameras write JPEG, and reading the EXIF of a PNG decodes it. Raises ValueError if the picture cannot be read.
    """
    try:
        with open_picture(path) as picture:
            turn = picture.getexif().get(ORIENTATION) if picture.format in ("JPEG", "MPO") else 1
            return picture.size, turn if isinstance(turn, int) else 1
    except (*UNREADABLE, TypeError, KeyError, IndexError, OverflowError) as error:  # damaged EXIF raises the others
        raise ValueError(f"{path}: cannot read this image's size ({reason_of(path, error)}); replace it") from error


def read_upright_size(path: File) -> tuple[int, int]:
    """Return width and height of the picture as viewers show it: turned as EXIF says. Raises the same errors."""
    size, turn = read_turn(path)
    return size[::-1] if turn in ROTATED else size


def read_maximum(path: File) -> float | None:
    """Return the largest value of a picture with more than 8 bits; None for other and for unreadable pictures."""
    try:
        with open_picture(path) as picture:
            return float(np.asarray(picture).max()) if picture.mode.startswith(("I", "F")) else None
    except UNREADABLE:
        return None


def list_images(folder: Path) -> dict[str, Path]:
    """Return the pictures of a folder by name without suffix. Of two with the same name, .jpg comes first."""
    if not folder.is_dir():
        return {}
    found = sorted(_pictures(os.listdir(folder)), key=lambda name: SUFFIXES.index(Path(name).suffix.lower()))
    return {Path(name).stem: folder / name for name in reversed(found)}


def _pictures(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.lower().endswith(SUFFIXES)]
