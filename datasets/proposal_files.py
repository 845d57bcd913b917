"""Proposals kept in files: this project's own .npz, and the original .mat.

The .npz names its images and states its box convention, so a reordered image list cannot go unnoticed:

    format     int, 1
    convention str, "xyxy, 0-based, half-open"
    image_ids  [N] str
    offsets    [N + 1] int64, image i has rows offsets[i] : offsets[i + 1]
    boxes      [total, 4] float32
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detector.datasets.sample import Annotation, Dataset

FORMAT = 1
CONVENTION = "xyxy, 0-based, half-open"


@dataclass(frozen=True, slots=True)
class ProposalFile:
    """Boxes of a list of images, all in one array."""

    image_ids: tuple[str, ...]
    offsets: Tensor  # [N + 1] int64
    flat: Tensor  # [total, 4] float32 xyxy, best first within an image

    def boxes(self, index: int) -> Tensor:
        return self.flat[self.offsets[index] : self.offsets[index + 1]]


def from_boxes(image_ids: Sequence[str], boxes: Sequence[Tensor]) -> ProposalFile:
    """One table of the boxes [P_i, 4] of each image."""
    offsets = torch.tensor([0, *(len(item) for item in boxes)]).cumsum(0)
    return ProposalFile(tuple(image_ids), offsets, torch.cat([torch.zeros(0, 4), *boxes]).float())


def save_proposals(path: Path, proposals: ProposalFile) -> None:
    """Writes the .npz, under its name only when whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            np.savez(
                file,
                format=FORMAT,
                convention=CONVENTION,
                image_ids=np.array(proposals.image_ids),
                offsets=proposals.offsets.numpy(),
                boxes=proposals.flat.numpy(),
            )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_proposals(path: Path, dataset: Dataset) -> ProposalFile:
    """The proposals of a .npz or .mat file, in the dataset's order. Raises ValueError where they do not belong to it."""
    if not path.is_file():
        raise ValueError(f"proposals: no such file {path}; `detector proposals` makes one")
    ids = [item.image_id for item in dataset.annotations]
    found = read_mat(path, ids) if path.suffix == ".mat" else read_npz(path)
    where = {image_id: index for index, image_id in enumerate(found.image_ids)}
    missing = [image_id for image_id in ids if image_id not in where]
    if missing:
        raise ValueError(
            f"{path} has boxes for {len(where)} images, but none for {len(missing)} of the dataset's {len(ids)} "
            f"(first: {', '.join(missing[:3])}); compute proposals for this split"
        )
    boxes = [found.boxes(where[image_id]) for image_id in ids]
    for item, annotation in zip(boxes, dataset.annotations, strict=True):
        _require_inside(path, item, annotation)
    return from_boxes(ids, boxes)


def read_npz(path: Path) -> ProposalFile:
    """Raises ValueError where the file is damaged or of another format."""
    try:
        with np.load(path, allow_pickle=False) as file:
            form, convention = int(file["format"]), str(file["convention"])
            ids, offsets, boxes = file["image_ids"], file["offsets"], file["boxes"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: not a proposal file of this project ({error}); make it with `detector proposals`"
        ) from error
    if form != FORMAT or convention != CONVENTION:
        raise ValueError(f"{path}: format {form}, boxes {convention!r}; expected format {FORMAT}, {CONVENTION!r}")
    if len(offsets) != len(ids) + 1 or offsets[-1] != len(boxes) or boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"{path}: {len(ids)} images, {len(offsets)} offsets, boxes {boxes.shape}: they do not fit together"
        )
    return ProposalFile(tuple(ids.tolist()), torch.from_numpy(offsets).long(), torch.from_numpy(boxes).float())


def read_mat(path: Path, image_ids: Sequence[str]) -> ProposalFile:
    """The original `selective_search_data/voc_2007_trainval.mat`: a cell of matrices, one per image of the list.

    Columns are y1 x1 y2 x2, counted from 1, inclusive. The file names no images: their number is all that can be
    checked. Source: fast-rcnn `lib/datasets/pascal_voc.py::_load_selective_search_roidb`.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ValueError(f"{path}: reading .mat files needs scipy; pip install 'fast-rfcn[proposals]'") from error
    try:
        content = loadmat(path)
    except Exception as error:  # scipy raises whatever the bytes lead it to
        raise ValueError(f"{path}: not a readable .mat file ({error})") from error
    if "boxes" not in content:
        known = [key for key in content if not key.startswith("__")]
        raise ValueError(f"{path}: expected a variable `boxes`, found {', '.join(known) or 'none'}")
    cells = content["boxes"].ravel()
    if content["boxes"].dtype != object or len(cells) != len(image_ids):
        number = len(cells) if content["boxes"].dtype == object else 1
        raise ValueError(
            f"{path} has boxes for {number} images, the image list has {len(image_ids)}: it is of another split"
        )
    boxes = [torch.from_numpy(np.asarray(cell, np.float32).reshape(-1, 4)) for cell in cells]
    # 1-based inclusive y1 x1 y2 x2 to 0-based half-open x1 y1 x2 y2: the minima lose 1.
    return from_boxes(image_ids, [item[:, [1, 0, 3, 2]] - item.new_tensor((1, 1, 0, 0)) for item in boxes])


def prepared(boxes: Tensor, *, top_k: int, min_size: float) -> Tensor:
    """The first `top_k` distinct boxes [P, 4] with both sides at least `min_size` pixels, in their order.

    Source: py-faster-rcnn `lib/datasets/pascal_voc.py` (unique_boxes, filter_small_boxes), with both tests inclusive.
    """
    solid = boxes[((boxes[:, 2] - boxes[:, 0]) >= min_size) & ((boxes[:, 3] - boxes[:, 1]) >= min_size)]
    rounded = solid.round()
    _, inverse = torch.unique(rounded, dim=0, return_inverse=True)
    first = torch.full((int(inverse.max()) + 1 if len(inverse) else 0,), len(solid)).scatter_reduce(
        0, inverse, torch.arange(len(solid)), "amin"
    )
    return solid[first.sort().values[:top_k]]


def prepare_all(proposals: ProposalFile, *, top_k: int, min_size: float) -> ProposalFile:
    """`prepared` for every image."""
    ready = [
        prepared(proposals.boxes(index), top_k=top_k, min_size=min_size) for index in range(len(proposals.image_ids))
    ]
    return from_boxes(proposals.image_ids, ready)


def _require_inside(path: Path, boxes: Tensor, annotation: Annotation) -> None:
    if not len(boxes):
        return
    limits = torch.tensor([annotation.width, annotation.height], dtype=torch.float32)
    # One pixel of grace: some published files count from 1, some from 0.
    wrong = (boxes[:, :2] < -1).any(1) | (boxes[:, 2:] > limits + 1).any(1) | (boxes[:, 2:] < boxes[:, :2]).any(1)
    wrong |= ~boxes.isfinite().all(1)
    if wrong.any():
        index = int(wrong.nonzero()[0])
        raise ValueError(
            f"{path}: image {annotation.image_id} ({annotation.width}x{annotation.height}) has {int(wrong.sum())} boxes "
            f"that are inverted or outside (first: number {index}, {boxes[index].tolist()}); are the columns in order?"
        )
