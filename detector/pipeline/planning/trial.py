"""Trial: the time of a real training step and of a real test image on this machine, measured before a run starts."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from detector.configs import schema
from detector.engine.evaluate import detect_all
from detector.engine.gradients import accumulate_gradients
from detector.pipeline.data import Data
from detector.pipeline.loaders import collate, training_order
from detector.pipeline.state import initialise, new_state
from detector.preprocess import resized_size
from detector.structures import Batch

WARM_UP = 2  # steps before the measurement, in which kernels choose their algorithms
STEPS = 8  # steps that are measured
IMAGES = 4  # of the test split


@dataclass(frozen=True, slots=True)
class Trial:
    """Seconds: the mean of the steps, the median of the test images."""

    step: float  # decoding, forward, backward and update of one batch of mean size
    image: float  # one test image, decoding included
    spent: float  # by the trial itself


def measure(config: schema.Config, data: Data, device: torch.device, *, most_seconds: float) -> Trial:
    """Train a detector of the config for a few steps and discard it. Return the times.

    The images come in the order of the training, because the first ones of a list are often alike. The steps end early
    after `most_seconds`, but at least one step is measured.
    """
    started = time.monotonic()
    state = new_state(config, data, device)
    with _silent():
        initialise(state.detector, config, data)
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
    order = training_order(settings, data.train_set.annotations, first_step=0, last_step=WARM_UP + STEPS)
    seconds: list[float] = []
    sizes: list[float] = []
    for number, places in enumerate(order):
        begun = time.perf_counter()
        batch = collate([data.train_view[place] for place in places]).to(device)
        state.optimizer.zero_grad(set_to_none=True)
        step(batch)
        state.scaler.step(state.optimizer)
        _wait(device)
        seconds.append(time.perf_counter() - begun)
        sizes.append(relative_size(batch, config.input))
        if number >= WARM_UP and time.monotonic() - started > most_seconds:
            break
    mean = sum(seconds[WARM_UP:]) / sum(sizes[WARM_UP:])
    images = [_timed_detection(state.detector, data, device, index, settings.precision) for index in range(IMAGES + 1)]
    return Trial(mean, statistics.median(images[1:]), time.monotonic() - started)


def relative_size(batch: Batch, config: schema.InputConfig) -> float:
    """Return the pixels of the batch as the network sees it, divided by their mean over all sizes of training.

    The sizes are drawn at random, and the time of a step grows with its pixels. So 8 steps with this correction predict
    the mean step as well as 12 without.
    """

    def pixels(image: Tensor, short_side: int) -> int:
        return math.prod(resized_size(image.shape[1], image.shape[2], short_side, config.max_side))

    drawn = sum(map(pixels, batch.images, batch.short_sides))
    means = (statistics.mean(pixels(image, side) for side in config.short_sides) for image in batch.images)
    return drawn / sum(means)


def _timed_detection(detector: torch.nn.Module, data: Data, device: torch.device, index: int, precision: str) -> float:
    begun = time.perf_counter()
    batch = collate([data.test_view[index % len(data.test_view)]])
    detect_all(detector, [batch], num_images=1, device=device, precision=precision)  # type: ignore[arg-type]
    return time.perf_counter() - begun


@contextmanager
def _silent() -> Iterator[None]:
    """Context without log messages of the trial: the training that follows logs the same messages."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
