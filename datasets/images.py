"""Pictures from disk as tensors, with one clear error for those that cannot be read."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

log = logging.getLogger("detector")

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
JPEG_END = b"\xff\xd9"
ORIENTATION = 0x0112  # the EXIF tag
TURNED = (5, 6, 7, 8)  # the orientations that exchange width and height
DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras give
CONSTANT = 8  # grey levels, of 255, that a picture must span to show anything


def read_image(
    path: Path, *, upright: bool = False, bit_depth: int | None = None, size: tuple[int, int] | None = None
) -> Tensor:
    """The picture [3, H, W] uint8 RGB as its pixels are stored: annotated boxes refer to those. Channels lie last.

    With `upright` EXIF rotates it, as for pictures of no dataset. It does so too where only the upright picture has the
    `size` (width, height) that an annotation states: the tool that wrote it has shown the picture upright.

    Grey, palette, CMYK and transparent pictures are converted; for more than 8 bits see `to_pixels`. Raises ValueError
    naming the file if it is missing or damaged, MemoryError if it has no room.
    """
    try:
        data = path.read_bytes()
        with Image.open(BytesIO(data)) as picture:
            if size is not None and picture.size != size and picture.size[::-1] == size:
                upright = upright or picture.getexif().get(ORIENTATION) in TURNED
            pixels = _decode_whole_jpeg(data, picture, upright=upright)
            if pixels is None:
                pixels = to_pixels(picture, upright=upright, bit_depth=bit_depth)
            deep = picture.mode.startswith(("I", "F"))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such image; restore it or take its id out of the image list") from error
    except UNREADABLE as error:
        raise ValueError(
            f"{path}: cannot decode this image ({error}); replace it or take it out of the image list"
        ) from error
    except MemoryError as error:
        raise MemoryError(
            f"{path}: no memory left to decode this image; make it smaller, or load fewer at once"
        ) from error
    if deep and int(pixels.max()) - int(pixels.min()) < CONSTANT:
        log.warning("%s: nearly one grey (%d to %d of 255); is its bit depth right?", path, pixels.min(), pixels.max())
    return pixels


def _decode_whole_jpeg(data: bytes, picture: Image.Image, *, upright: bool) -> Tensor | None:
    """The pixels of an ordinary JPEG by torchvision: the same values as Pillow's in less than half of the time.

    None if Pillow has to read it: another format, other colours, a turned picture, or a file without its end, which
    torchvision fills with grey and Pillow refuses.
    """
    is_plain = picture.format == "JPEG" and picture.mode in ("RGB", "L")
    if not is_plain or not data.rstrip(b"\0\r\n ").endswith(JPEG_END):
        return None
    if upright and picture.getexif().get(ORIENTATION, 1) != 1:
        return None
    try:
        return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    except RuntimeError:  # Pillow tells what is wrong
        return None


def to_pixels(picture: Image.Image, *, upright: bool = False, bit_depth: int | None = None) -> Tensor:
    """A PIL picture as [3, H, W] uint8 RGB; transparency is dropped.

    A grey picture of more than 8 bits is scaled from the range of `bit_depth`, 0 to 2^bits - 1, to 0 to 255. None takes
    the smallest of 8, 10, 12, 14 and 16 bits that holds the picture's maximum, so that a 12-bit camera's pictures in
    16-bit files are as bright as they were. Numbers that are not whole count as they are, or from 0 to 1 if none is
    larger. Raises ValueError for values that are negative, not finite or beyond 16 bits.
    """
    if upright:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith(("I", "F")):  # Pillow would cut them off at 255: an almost white picture
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
    """The bits of a camera whose largest value this is."""
    return next(bits for bits in DEPTHS if maximum < 2**bits or bits == DEPTHS[-1])


def read_size(path: Path) -> tuple[int, int]:
    """Width and height from the picture's header. Raises ValueError as `read_image` does."""
    try:
        with Image.open(path) as picture:
            return picture.size
    except UNREADABLE as error:
        raise ValueError(f"{path}: cannot read this image's size ({error}); replace it") from error


def read_maximum(path: Path) -> float | None:
    """The largest value of a picture of more than 8 bits; None for others, and for those that cannot be read."""
    try:
        with Image.open(path) as picture:
            return float(np.asarray(picture).max()) if picture.mode.startswith(("I", "F")) else None
    except UNREADABLE:
        return None


def list_images(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by their name without suffix, by one listing; of two with one name, .jpg is taken."""
    if not folder.is_dir():
        return {}
    found = sorted(_pictures(os.listdir(folder)), key=lambda name: SUFFIXES.index(Path(name).suffix.lower()))
    return {Path(name).stem: folder / name for name in reversed(found)}


def _pictures(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.lower().endswith(SUFFIXES)]
