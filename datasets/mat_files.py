"""Reads published proposals from Matlab files: a cell array in the order of the image list, or one file per image.

The files do not state their box format, so the caller must. The Selective Search files of Fast R-CNN (one cell array
for a split) are yxyx-1. Those of the Selective Search paper and of R-FCN (one file per image) are xyxy-1. The demo
boxes of fast-rcnn are xyxy-0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detector.datasets.box_convention import half_open
from detector.datasets.mat_structure import require_numbers

# The columns of x1, y1, x2, y2, and the number of the first pixel. Maxima are the last pixel, inclusive.
CONVENTIONS = {"yxyx-1": ((1, 0, 3, 2), 1), "xyxy-1": ((0, 1, 2, 3), 1), "xyxy-0": ((0, 1, 2, 3), 0)}


def read_mat(path: Path, image_ids: Sequence[str], *, convention: str = "yxyx-1") -> list[Tensor]:
    """Return the boxes [P_i, 4] float32 xyxy, 0-based, half-open, of each image.

    `path` is a file whose variable `boxes` is a cell array of N matrices in the order of `image_ids`. The file does not
    name the images, so only their number can be checked. Or `path` is a folder of files ID.mat or ID_boxes.mat, whose
    variable `boxes` is one matrix.

    Raises ValueError naming the file for a wrong number of images, a missing file, or other content.
    Source: fast-rcnn `lib/datasets/pascal_voc.py` (_load_selective_search_roidb, _load_selective_search_IJCV_roidb).
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"box convention {convention!r} of {path}; expected one of {', '.join(CONVENTIONS)}")
    if path.is_dir():
        return [_boxes(_read_variable(_file_of(path, name)), path / name, convention) for name in image_ids]
    content = _read_variable(path)
    number = content.size if content.dtype == object else 1
    if content.dtype != object or number != len(image_ids):
        raise ValueError(
            f"{path} has boxes for {number} images, but the image list has {len(image_ids)}: "
            "expected a cell array with one matrix per image; use the file of this split"
        )
    return [_boxes(cell, path, convention) for cell in content.ravel()]


def _file_of(folder: Path, image_id: str) -> Path:
    names = (f"{image_id}.mat", f"{image_id}_boxes.mat")
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"{folder}: no proposals of image {image_id}; expected {' or '.join(names)}")


def _read_variable(path: Path) -> Any:
    """Return the array `boxes` of a file."""
    try:
        from scipy.io import loadmat, whosmat
    except ImportError as error:
        raise ValueError(f"{path}: reading .mat files needs scipy; pip install 'fast-rfcn[proposals]'") from error
    try:
        require_numbers(path.read_bytes(), "boxes")
        content = loadmat(path, variable_names=["boxes"])
        names = [] if "boxes" in content else [name for name, _, _ in whosmat(path)]
    except Exception as error:  # scipy raises many types for damaged files
        raise ValueError(f"{path}: not a readable .mat file ({error}); download it again") from error
    if "boxes" not in content:
        raise ValueError(f"{path}: expected a variable `boxes`, found {', '.join(names) or 'none'}")
    return content["boxes"]


def _boxes(matrix: Any, path: Path, convention: str) -> Tensor:
    corners = np.asarray(matrix)
    if corners.size and (corners.ndim != 2 or corners.shape[1] != 4):
        raise ValueError(f"{path}: expected matrices of 4 columns, got one of shape {corners.shape}")
    columns, base = CONVENTIONS[convention]
    return half_open(torch.from_numpy(corners.astype(np.float32).reshape(-1, 4))[:, list(columns)], base)
