"""OpenCV's Selective Search: proposals from the image only, computed once in worker processes and stored on disk.

Each finished image is written to a separate file in a folder beside the result, so that an interrupted computation
continues where it stopped. The result is stored with a key of its inputs; if they change, it is computed again, with a
message.
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

ALGORITHM = 1  # increase it if a change of the code changes the boxes


@dataclass(frozen=True, slots=True)
class Search:
    """The settings of a search."""

    mode: str  # fast | quality
    resize_height: int | None  # scale the image to this height before the search; None: no scaling


def selective_search(image: Tensor, search: Search) -> Tensor:
    """Return boxes [P, 4] float32 xyxy of an image [3, H, W] uint8, in its pixels, in OpenCV's order (best first).

    Raises ValueError if OpenCV's contributed modules are not installed.
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
    # OpenCV ranks regions with the C library's rand(). Without a seed, the order of an image's boxes would depend on
    # the number of images that the process searched before. cv2.setRNGSeed does not set this generator.
    if os.name == "posix":
        ctypes.CDLL(None).srand(0)
    pixels = np.ascontiguousarray(image.flip(0).permute(1, 2, 0).numpy())  # BGR, OpenCV's order
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
    """Return the boxes of every image of a dataset, from the file `path` if it is valid; else compute and store them.

    `workers` None uses every core. Ground truth is not used. Raises ValueError for an image that cannot be read.
    """
    key = _key(dataset, search)
    stored = _stored(path, key)
    if stored is not None:
        return stored
    parts = path.with_name(f"{path.stem}.{key[:12]}.part")
    parts.mkdir(parents=True, exist_ok=True)
    missing = [index for index in range(len(dataset.annotations)) if not (parts / f"{index}.npy").is_file()]
    if missing:
        log.info(
            "Selective Search (%s) on %d of %d images, stored in %s",
            search.mode, len(missing), len(dataset.annotations), path,
        )  # fmt: skip
        _compute(dataset, search, parts, missing, workers)
    boxes = [torch.from_numpy(np.load(parts / f"{index}.npy")) for index in range(len(dataset.annotations))]
    proposals = from_boxes([item.image_id for item in dataset.annotations], boxes)
    save_proposals(path, proposals)
    note = {"key": key, "mode": search.mode, "resize_height": search.resize_height}
    _key_file(path).write_text(json.dumps(note))
    for part in parts.iterdir():
        part.unlink()
    parts.rmdir()
    return proposals


def _key_file(path: Path) -> Path:
    return path.with_suffix(".json")


def _stored(path: Path, key: str) -> ProposalFile | None:
    """Return the stored boxes. None if there are none, if they are damaged, or if images or settings have changed."""
    if not path.is_file() or not _key_file(path).is_file():
        return None
    try:
        kept = json.loads(_key_file(path).read_text())
        if kept.get("key") == key:
            return read_npz(path)
        log.info("%s was computed from other images or settings; computing it again", path)
    except ValueError as error:
        log.info("%s; computing it again", error)
    return None


def _compute(dataset: Dataset, search: Search, parts: Path, missing: list[int], workers: int | None) -> None:
    """Search the missing images in worker processes, with a progress bar."""
    count = min(workers or os.cpu_count() or 1, len(missing))
    with tqdm(total=len(missing), unit="image", desc="selective search", dynamic_ncols=True, file=sys.stderr) as bar:
        if count == 1:
            for index in missing:
                _search_one(dataset, search, parts, index)
                bar.update()
            return
        # Pickle here, once: multiprocessing would send each of thousands of tensors through a file descriptor.
        job = pickle.dumps((dataset, search, parts))
        spawn = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(count, spawn, initializer=_start_worker, initargs=(job,))
        try:
            for searched in as_completed([pool.submit(_work, index) for index in missing]):
                searched.result()
                bar.update()
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a process of Selective Search was killed, probably because memory ran out; lower proposals.workers "
                "and start again: the finished images are stored"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _search_one(dataset: Dataset, search: Search, parts: Path, index: int) -> None:
    """Compute and write the boxes of one image, atomically."""
    boxes = selective_search(dataset.image(index), search)
    temporary = parts / f".{index}.{os.getpid()}.npy"
    np.save(temporary, boxes.numpy())
    os.replace(temporary, parts / f"{index}.npy")


# The job of this worker process.
_job: tuple[Dataset, Search, Path] | None = None


def _start_worker(job: bytes) -> None:
    global _job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C
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
    """Return a hash of the images, their sizes and the settings."""
    images = [(item.image_id, item.width, item.height) for item in dataset.annotations]
    return hashlib.sha256(repr((ALGORITHM, search.mode, search.resize_height, images)).encode()).hexdigest()
