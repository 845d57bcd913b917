"""Selective Search by OpenCV: proposals from the image alone, computed once in worker processes and kept on disk.

Finished images are appended to a part file as they come, so an interrupted computation goes on where it stopped. The
finished file is keyed on what it was computed from; when that changes it is computed anew, with a message.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from detector.datasets.proposal_files import ProposalFile, from_boxes, read_npz, save_proposals
from detector.datasets.sample import Dataset

log = logging.getLogger("detector")

ALGORITHM = 1  # raise it when the boxes that come out would change


@dataclass(frozen=True, slots=True)
class Search:
    """How boxes are searched for."""

    mode: str  # fast | quality
    resize_height: int | None  # of the image that is searched; None: as it is


def selective_search(image: Tensor, search: Search) -> Tensor:
    """Boxes [P, 4] float32 xyxy of an image [3, H, W] uint8, in its pixels, in OpenCV's order (best first).

    Raises ValueError where OpenCV's contributed modules are not installed.
    Source: Uijlings et al., Selective Search for Object Recognition (IJCV 2013); `cv2.ximgproc.segmentation`.
    """
    try:
        import cv2

        segmentation = cv2.ximgproc.segmentation
    except (ImportError, AttributeError) as error:
        raise ValueError(
            "Selective Search needs OpenCV's contributed modules: pip install 'fast-rfcn[proposals]' "
            "(and remove opencv-python, which hides them); or use proposals=grid"
        ) from error
    cv2.setNumThreads(1)
    cv2.setRNGSeed(0)
    pixels = np.ascontiguousarray(image.flip(0).permute(1, 2, 0).numpy())  # BGR, as OpenCV has it
    height, width = pixels.shape[:2]
    scale = 1.0 if search.resize_height is None else search.resize_height / height
    if scale != 1.0:
        pixels = cv2.resize(pixels, (max(1, round(width * scale)), max(1, round(height * scale))))
    engine = segmentation.createSelectiveSearchSegmentation()
    engine.setBaseImage(pixels)
    if search.mode == "fast":
        engine.switchToSelectiveSearchFast()
    else:
        engine.switchToSelectiveSearchQuality()
    x, y, w, h = torch.from_numpy(np.asarray(engine.process(), np.float32).reshape(-1, 4)).unbind(1)
    boxes = torch.stack((x, y, x + w, y + h), dim=1) / scale
    return boxes.clamp(max=torch.tensor([width, height, width, height], dtype=torch.float32))


def cached_search(dataset: Dataset, path: Path, search: Search, workers: int | None) -> ProposalFile:
    """The boxes of every image of a dataset, from `path` where they are there and fresh, otherwise computed into it."""
    key = _key(dataset, search)
    note = path.with_suffix(".json")
    if path.is_file() and note.is_file():
        if json.loads(note.read_text()).get("key") == key:
            return read_npz(path)
        log.info("%s was computed from other images or settings: computing it anew", path)
    parts = path.with_name(f"{path.stem}.{key[:12]}.part")
    parts.mkdir(parents=True, exist_ok=True)
    missing = [index for index in range(len(dataset.annotations)) if not (parts / f"{index}.npy").is_file()]
    if missing:
        log.info("Selective Search (%s) on %d images, kept in %s", search.mode, len(missing), path)
    for _ in tqdm(
        _compute(dataset, search, parts, missing, workers),
        total=len(missing),
        unit="image",
        desc="selective search",
        dynamic_ncols=True,
        file=sys.stderr,
        disable=not missing,
    ):
        pass
    boxes = [torch.from_numpy(np.load(parts / f"{index}.npy")) for index in range(len(dataset.annotations))]
    proposals = from_boxes([item.image_id for item in dataset.annotations], boxes)
    save_proposals(path, proposals)
    note.write_text(json.dumps({"key": key, "mode": search.mode, "resize_height": search.resize_height}))
    for part in parts.iterdir():
        part.unlink()
    parts.rmdir()
    return proposals


def _compute(dataset: Dataset, search: Search, parts: Path, missing: list[int], workers: int | None) -> Iterator[int]:
    """Searches the missing images, each result whole under its name or not there."""
    job = partial(_search_one, dataset, search, parts)
    count = min(workers or os.cpu_count() or 1, len(missing))
    if count <= 1:
        yield from map(job, missing)
        return
    with multiprocessing.get_context("spawn").Pool(count) as pool:
        yield from pool.imap_unordered(job, missing, chunksize=1)


def _search_one(dataset: Dataset, search: Search, parts: Path, index: int) -> int:
    boxes = selective_search(dataset.image(index), search)
    temporary = parts / f".{index}.{os.getpid()}.npy"
    np.save(temporary, boxes.numpy())
    os.replace(temporary, parts / f"{index}.npy")
    return index


def _key(dataset: Dataset, search: Search) -> str:
    """Names the images, their sizes and the settings."""
    images = [(item.image_id, item.width, item.height) for item in dataset.annotations]
    return hashlib.sha256(repr((ALGORITHM, search.mode, search.resize_height, images)).encode()).hexdigest()
