"""Pictures from disk as tensors, with one clear error for those that cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def read_image(path: Path) -> Tensor:
    """The picture [3, H, W] uint8 RGB as its pixels are stored: no rotation by EXIF, since boxes refer to stored pixels.

    Grey, palette and CMYK pictures are converted. Raises ValueError naming the file if it is missing or damaged.
    """
    try:
        with Image.open(path) as picture:
            pixels = np.array(picture.convert("RGB"))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such image; restore it or take its id out of the image list") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path}: cannot decode this image ({error}); replace it or take it out of the list"
        ) from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
