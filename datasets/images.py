"""Pictures from disk as tensors, with one clear error for those that cannot be read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def read_image(path: Path, *, upright: bool = False) -> Tensor:
    """The picture [3, H, W] uint8 RGB as its pixels are stored: annotated boxes refer to those.

    With `upright` EXIF rotates it, as for pictures of no dataset. Grey, palette, CMYK, transparent and 16-bit pictures
    are converted. Raises ValueError naming the file if it is missing or damaged.
    """
    try:
        with Image.open(path) as picture:
            return to_pixels(picture, upright=upright)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such image; restore it or take its id out of the image list") from error
    except UNREADABLE as error:
        raise ValueError(
            f"{path}: cannot decode this image ({error}); replace it or take it out of the image list"
        ) from error


def to_pixels(picture: Image.Image, *, upright: bool = False) -> Tensor:
    """A PIL picture as [3, H, W] uint8 RGB; 16-bit grey keeps its upper 8 bits, transparency is dropped."""
    if upright:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):  # Pillow would cut 16 bits off at 255: an almost white picture
        picture = Image.fromarray((np.asarray(picture).clip(0, 65535) >> 8).astype(np.uint8))
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous()


def read_size(path: Path) -> tuple[int, int]:
    """Width and height from the picture's header. Raises ValueError as `read_image` does."""
    try:
        with Image.open(path) as picture:
            return picture.size
    except UNREADABLE as error:
        raise ValueError(f"{path}: cannot read this image's size ({error}); replace it") from error


def list_images(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by their name without suffix, by one listing; of two with one name, .jpg is taken."""
    if not folder.is_dir():
        return {}
    found = sorted(_pictures(os.listdir(folder)), key=lambda name: SUFFIXES.index(Path(name).suffix.lower()))
    return {Path(name).stem: folder / name for name in reversed(found)}


def _pictures(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.lower().endswith(SUFFIXES)]
