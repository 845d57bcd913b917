"""Selective Search by OpenCV: proposals from the image alone, computed once in worker processes and kept on disk.

Each finished image is a file of its own in a folder beside the result, so an interrupted computation goes on where it
stopped. The result is keyed on what it was computed from; when that changes it is computed anew, with a message.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
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
    # OpenCV ranks regions by the C library's rand(): without a seed the order of an image's boxes would depend on how
    # many images the process has seen before. cv2.setRNGSeed does not reach it.
    if os.name == "posix":
        ctypes.CDLL(None).srand(0)
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
    """The boxes of every image of a dataset, from `path` where they are there and fresh, otherwise computed into it.

    `workers` None uses every core. Ground truth is not looked at. Raises ValueError for an image that cannot be read.
    """
    key = _key(dataset, search)
    fresh = _fresh(path, key)
    if fresh is not None:
        return fresh
    parts = path.with_name(f"{path.stem}.{key[:12]}.part")
    parts.mkdir(parents=True, exist_ok=True)
    missing = [index for index in range(len(dataset.annotations)) if not (parts / f"{index}.npy").is_file()]
    if missing:
        log.info(
            "Selective Search (%s) on %d of %d images, kept in %s",
            search.mode, len(missing), len(dataset.annotations), path,
        )  # fmt: skip
        _compute(dataset, search, parts, missing, workers)
    boxes = [torch.from_numpy(np.load(parts / f"{index}.npy")) for index in range(len(dataset.annotations))]
    proposals = from_boxes([item.image_id for item in dataset.annotations], boxes)
    save_proposals(path, proposals)
    note = {"key": key, "mode": search.mode, "resize_height": search.resize_height}
    _note_of(path).write_text(json.dumps(note))
    for part in parts.iterdir():
        part.unlink()
    parts.rmdir()
    return proposals


def _note_of(path: Path) -> Path:
    return path.with_suffix(".json")


def _fresh(path: Path, key: str) -> ProposalFile | None:
    """The kept boxes, or None where there are none, or those of other images or settings, or damaged ones."""
    if not path.is_file() or not _note_of(path).is_file():
        return None
    try:
        kept = json.loads(_note_of(path).read_text())
        if kept.get("key") == key:
            return read_npz(path)
        log.info("%s was computed from other images or settings: computing it anew", path)
    except ValueError as error:
        log.info("%s; computing it anew", error)
    return None


def _compute(dataset: Dataset, search: Search, parts: Path, missing: list[int], workers: int | None) -> None:
    """Searches the missing images in worker processes, with a progress bar."""
    count = min(workers or os.cpu_count() or 1, len(missing))
    with tqdm(total=len(missing), unit="image", desc="selective search", dynamic_ncols=True, file=sys.stderr) as bar:
        if count == 1:
            for index in missing:
                _search_one(dataset, search, parts, index)
                bar.update()
            return
        # Pickled here and once: multiprocessing would send each of its thousands of tensors through a file descriptor.
        job = pickle.dumps((dataset, search, parts))
        spawn = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(count, spawn, initializer=_start_worker, initargs=(job,))
        try:
            for searched in as_completed([pool.submit(_work, index) for index in missing]):
                searched.result()
                bar.update()
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a process of Selective Search was killed: did the machine run out of memory? Lower "
                "proposals.workers; the images that are done are kept"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _search_one(dataset: Dataset, search: Search, parts: Path, index: int) -> None:
    """Keeps the boxes of one image, whole under its name or not there."""
    boxes = selective_search(dataset.image(index), search)
    temporary = parts / f".{index}.{os.getpid()}.npy"
    np.save(temporary, boxes.numpy())
    os.replace(temporary, parts / f"{index}.npy")


# What a worker process was started with.
_job: tuple[Dataset, Search, Path] | None = None


def _start_worker(job: bytes) -> None:
    global _job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    _job = pickle.loads(job)
    torch.set_num_threads(1)


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(index: int) -> None:
    assert _job is not None
    _search_one(*_job, index)


def _key(dataset: Dataset, search: Search) -> str:
    """Names the images, their sizes and the settings."""
    images = [(item.image_id, item.width, item.height) for item in dataset.annotations]
    return hashlib.sha256(repr((ALGORITHM, search.mode, search.resize_height, images)).encode()).hexdigest()
