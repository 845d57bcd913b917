"""Proposal files: the .npz of this project, and the original .mat.

The .npz contains image ids and the box convention, so that a changed image order is noticed:

    format     int, 1
    convention str, "xyxy, 0-based, half-open"
    image_ids  [N] str
    offsets    [N + 1] int64, image i has rows offsets[i] : offsets[i + 1]
    boxes      [total, 4] float32
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detector.datasets.mat_files import read_mat
from detector.datasets.sample import Annotation, Dataset

FORMAT = 1
# numpy and zipfile raise these for damaged bytes and for unknown compression.
BROKEN = (AttributeError, NotImplementedError, RuntimeError, OverflowError, MemoryError, zlib.error, zipfile.BadZipFile)
CONVENTION = "xyxy, 0-based, half-open"
# Boxes computed at another scale may be a rounding error beyond the border. Boxes farther out have another convention.
TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class ProposalFile:
    """Boxes of many images in one array, so that workers share two tensors only."""

    image_ids: tuple[str, ...]
    offsets: Tensor  # [N + 1] int64
    flat: Tensor  # [total, 4] float32 xyxy, best first within an image

    def boxes(self, index: int) -> Tensor:
        """Return the boxes [P, 4] of one image."""
        return self.flat[self.offsets[index] : self.offsets[index + 1]]


def from_boxes(image_ids: Sequence[str], boxes: Sequence[Tensor]) -> ProposalFile:
    """Join the boxes [P_i, 4] of each image."""
    offsets = torch.tensor([0, *(len(item) for item in boxes)]).cumsum(0)
    return ProposalFile(tuple(image_ids), offsets, torch.cat([torch.zeros(0, 4), *boxes]).float())


def save_proposals(path: Path, proposals: ProposalFile) -> None:
    """Write the .npz atomically."""
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
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_proposals(path: Path, dataset: Dataset, *, convention: str = "yxyx-1") -> ProposalFile:
    """Load the proposals of a .npz or of .mat files, in the dataset's order.

    `convention` is the box format of .mat files, see `mat_files.CONVENTIONS`; a .npz states its own. Boxes of images
    outside the dataset are left out.

    Raises ValueError if the file is damaged, an image has no or several lists of boxes, or a box is outside its image.
    """
    if not path.exists():
        raise ValueError(f"proposals: no such file {path}; make it with `detector proposals`")
    ids = [item.image_id for item in dataset.annotations]
    if path.is_dir() or path.suffix == ".mat":
        found = from_boxes(ids, read_mat(path, ids, convention=convention))
    else:
        found = read_npz(path)
    where = {image_id: index for index, image_id in enumerate(found.image_ids)}
    missing = [image_id for image_id in ids if image_id not in where]
    if missing:
        raise ValueError(
            f"{path} has boxes for {len(where)} images, but none for {len(missing)} of the dataset's {len(ids)} "
            f"(first: {', '.join(missing[:3])}); compute proposals for this split"
        )
    ordered = found if found.image_ids == tuple(ids) else from_boxes(ids, [found.boxes(where[name]) for name in ids])
    _require_inside(path, ordered, dataset.annotations)
    return ordered


def read_npz(path: Path) -> ProposalFile:
    """Read a .npz. Raises ValueError if the file is damaged or of another format."""
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            form, convention = int(file["format"]), str(file["convention"])
            ids, offsets, boxes = file["image_ids"].tolist(), file["offsets"], file["boxes"]
    except (OSError, ValueError, KeyError, EOFError, TypeError, *BROKEN) as error:
        raise ValueError(
            f"{path}: not a proposal file of this project ({error}); make it with `detector proposals`"
        ) from error
    if form != FORMAT or convention != CONVENTION:
        raise ValueError(
            f"{path}: format {form}, boxes {convention!r}; expected format {FORMAT}, {CONVENTION!r}; make it again "
            "with `detector proposals`"
        )
    if (
        (len(offsets) != len(ids) + 1 or offsets[0] != 0 or offsets[-1] != len(boxes))
        or (np.diff(offsets) < 0).any()
        or boxes.shape[1:] != (4,)
    ):
        raise ValueError(
            f"{path}: {len(ids)} images, {len(offsets)} offsets and boxes {boxes.shape} do not fit together; "
            "make the file again"
        )
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        raise ValueError(f"{path}: image {repeated[0]} occurs twice; expected one list of boxes for each image")
    return ProposalFile(tuple(ids), torch.from_numpy(offsets).long(), torch.from_numpy(boxes).float())


def filter_proposals(boxes: Tensor, *, top_k: int, min_size: float) -> Tensor:
    """Return the first `top_k` distinct boxes [P, 4] with both sides at least `min_size` pixels, in order.

    Boxes are equal if their corners round to the same pixels.
    Source: py-faster-rcnn `lib/datasets/pascal_voc.py` (unique_boxes, filter_small_boxes), with both tests inclusive.
    """
    solid = boxes[((boxes[:, 2] - boxes[:, 0]) >= min_size) & ((boxes[:, 3] - boxes[:, 1]) >= min_size)]
    # One integer per box, exact for coordinates up to 65,535.
    keys = (solid.round().to(torch.int64) << torch.tensor([48, 32, 16, 0])).sum(1)
    _, first = np.unique(keys.numpy(), return_index=True)
    return solid[torch.from_numpy(np.sort(first)[:top_k])]


def filter_all_proposals(proposals: ProposalFile, *, top_k: int, min_size: float) -> ProposalFile:
    """Apply `filter_proposals` to every image."""
    ready = [
        filter_proposals(proposals.boxes(index), top_k=top_k, min_size=min_size)
        for index in range(len(proposals.image_ids))
    ]
    return from_boxes(proposals.image_ids, ready)


def outside(boxes: Tensor, annotation: Annotation) -> Tensor:
    """Return [P] bool: the boxes [P, 4] that are not finite, inverted or not inside their image."""
    limits = torch.tensor([annotation.width, annotation.height], dtype=torch.float32) + TOLERANCE
    wrong = (boxes[:, :2] < -TOLERANCE).any(1) | (boxes[:, 2:] > limits).any(1) | (boxes[:, 2:] < boxes[:, :2]).any(1)
    return wrong | ~boxes.isfinite().all(1)


def _require_inside(path: Path, proposals: ProposalFile, annotations: Sequence[Annotation]) -> None:
    for index, annotation in enumerate(annotations):
        boxes = proposals.boxes(index)
        wrong = outside(boxes, annotation)
        if wrong.any():
            number = int(wrong.nonzero()[0])
            raise ValueError(
                f"{path}: image {annotation.image_id} ({annotation.width}x{annotation.height}) has {int(wrong.sum())} "
                f"boxes that are inverted or outside (first: number {number}, xyxy {boxes[number].tolist()}); is the "
                "file for another image list, or in another box convention?"
            )
