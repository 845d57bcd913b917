"""Runs a detector over a whole dataset."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tqdm.auto import tqdm

from detector.engine.distributed import is_main
from detector.engine.precision import autocast
from detector.engine.progress import is_watched
from detector.engine.watchdog import heartbeat
from detector.model import Detector
from detector.structures import Batch, Detections


def detect_all(
    detector: Detector, batches: Iterable[Batch], *, num_images: int, device: torch.device, precision: str
) -> list[Detections]:
    """Detections of every image, on the CPU, in the order of the images. The detector keeps its mode."""
    training = detector.training
    detector.eval()
    found: list[Detections] = []
    with tqdm(
        total=num_images,
        unit="image",
        desc="detecting",
        leave=False,
        disable=not (is_main() and is_watched()),
        dynamic_ncols=True,
    ) as bar:
        for batch in batches:
            heartbeat()
            with autocast(device, precision):
                found += [item.to("cpu") for item in detector.detect(batch.to(device, non_blocking=True))]
            bar.update(len(batch))
    detector.train(training)
    return found
