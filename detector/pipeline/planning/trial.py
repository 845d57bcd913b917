"""Trial: the time of a real training step and of a real test image on this machine, measured before a run starts."""

from __future__ import annotations

import copy
import random
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch

from detector.configs import schema
from detector.datasets.sample import Annotation
from detector.engine.evaluate import detect_all
from detector.engine.gradients import accumulate_gradients
from detector.model import Detector
from detector.pipeline.data import Data
from detector.pipeline.loaders import collate, training_order
from detector.pipeline.state import new_state
from detector.preprocess import resized_size

STEPS = 3  # steps that are measured, after one that allocates memory
IMAGES = 2  # of the test split, measured after another one
MEAN_OF = 500  # batches for the mean number of pixels
FIXED = 0.3  # share of a mean step's time that does not depend on its pixels, such as RoIs and optimizer


@dataclass(frozen=True, slots=True)
class Trial:
    """Seconds: the means of steps and test images."""

    step: float  # decoding, forward, backward and update of one batch of mean size
    image: float  # one test image, decoding included
    spent: float  # by the trial itself


def measure(
    config: schema.Config, data: Data, detector: Detector, device: torch.device, *, most_seconds: float
) -> Trial:
    """Train a copy of the initial detector for a few steps and discard it. Return the times.

    The images come in the order of the training, because the first ones of a list are often alike. The largest of the
    first batches comes before the others: it allocates the memory. The steps end early after `most_seconds`, but at
    least one step is measured.
    """
    started = time.monotonic()
    state = new_state(config, data, copy.deepcopy(detector), device)
    settings = config.trainer
    step = partial(
        accumulate_gradients,
        state.detector,
        micro_batches=settings.micro_batches,
        scaler=state.scaler,
        device=device,
        precision=settings.precision,
    )
    state.detector.train()
    annotations = data.train_set.annotations
    order = training_order(settings, annotations, first_step=0, last_step=MEAN_OF)
    mean = mean_canvas(([annotations[index] for _, index in keys] for keys in order), config.input)
    seconds: list[float] = []
    relative: list[float] = []  # expected times in units of the mean step's
    for keys in _largest_first([*islice(order, STEPS + 1)], annotations, config.input):
        begun = time.perf_counter()
        batch = collate([data.train_view[key] for key in keys]).to(device)
        state.optimizer.zero_grad(set_to_none=True)
        step(batch)
        state.scaler.step(state.optimizer)
        _wait(device)
        seconds.append(time.perf_counter() - begun)
        pixels = canvas([(item.shape[1], item.shape[2]) for item in batch.images], batch.short_sides, config.input)
        relative.append(FIXED + (1 - FIXED) * pixels / mean)
        if len(seconds) > 1 and time.monotonic() - started > most_seconds:
            break
    each = sum(seconds[1:]) / sum(relative[1:])
    apart = max(1, len(data.test_view) // IMAGES)
    places = [number * apart for number in range(IMAGES + 1)]
    images = [_timed_detection(state.detector, data, device, place, settings.precision) for place in places]
    return Trial(each, statistics.mean(images[1:]), time.monotonic() - started)


def canvas(sizes: Sequence[tuple[int, int]], short_sides: Sequence[int], config: schema.InputConfig) -> int:
    """Return the pixels of a batch as the network sees it, with the padding, for images of `sizes` (height, width)."""
    resized = [resized_size(*size, side, config.max_side) for size, side in zip(sizes, short_sides, strict=True)]
    heights, widths = zip(*resized, strict=True)
    return len(resized) * int(max(heights)) * int(max(widths))


def mean_canvas(batches: Iterable[Sequence[Annotation]], config: schema.InputConfig) -> float:
    """Return the mean pixels of the batches, with a random training size for each image.

    The time of a step grows with its pixels, and a wide image beside a tall one doubles them. Corrected for this, 3
    steps predict the mean step as well as 8 that are corrected for the size of each image only.
    """
    draw = random.Random(0)
    return statistics.mean(
        canvas([(item.height, item.width) for item in batch], draw.choices(config.short_sides, k=len(batch)), config)
        for batch in batches
    )


def _largest_first(
    batches: Sequence[list[tuple[int, int]]], annotations: Sequence[Annotation], config: schema.InputConfig
) -> list[list[tuple[int, int]]]:
    """Return the batches of (epoch, index) with the largest one first, for images of one training size."""

    def pixels(batch: list[tuple[int, int]]) -> int:
        sizes = [(annotations[index].height, annotations[index].width) for _, index in batch]
        return canvas(sizes, config.short_sides[:1] * len(sizes), config)

    first = max(range(len(batches)), key=lambda number: pixels(batches[number]))
    return [batches[first], *batches[:first], *batches[first + 1 :]]


def _timed_detection(detector: Detector, data: Data, device: torch.device, index: int, precision: str) -> float:
    begun = time.perf_counter()
    batch = collate([data.test_view[index % len(data.test_view)]])
    detect_all(detector, [batch], num_images=1, device=device, precision=precision)
    return time.perf_counter() - begun


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
