"""The views of a dataset that training and evaluation see.

A training sample is a function of (seed, epoch, index): flip, scale and the sampler's seed are drawn from a generator
of its own, so neither the number of loader workers nor an interruption changes what is seen.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import adjust_brightness, adjust_contrast, adjust_saturation

from detector.datasets.sample import Dataset, Sample
from detector.ops import boxes as box_ops

log = logging.getLogger("detector")

ATTEMPTS = 20  # images tried for one place before the error is raised


class ProposalSource(Protocol):
    """Candidate boxes of each image of a dataset, in the pixels of the original image."""

    def boxes(self, index: int) -> Tensor:
        """[P, 4] float32 xyxy."""
        ...


class TrainingView:
    """A dataset as training sees it; keys are (epoch, index)."""

    def __init__(
        self,
        dataset: Dataset,
        proposals: ProposalSource | None,
        *,
        flip: bool,
        flip_vertical: bool = False,
        color_jitter: float = 0.0,
        short_sides: tuple[int, ...],
        seed: int,
        skip_unreadable: bool = False,
    ) -> None:
        """`flip` mirrors half of the samples, `flip_vertical` turns half upside down; `short_sides` are the training
        scales, one drawn per sample. `color_jitter` is how far brightness, contrast and saturation may be from 1.
        With `skip_unreadable` another image takes the place of one that cannot be read.
        """
        self.dataset = dataset
        self.proposals = proposals
        self.flip = flip
        self.flip_vertical = flip_vertical
        self.color_jitter = color_jitter
        self.short_sides = short_sides
        self.seed = seed
        self.skip_unreadable = skip_unreadable
        self.num_skipped = 0  # by this process

    def __len__(self) -> int:
        return len(self.dataset.annotations)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """The sample of (epoch, index). Raises ValueError for an image that cannot be read, unless it is skipped."""
        epoch, index = key
        index, image = self._readable(epoch, index)
        rng = np.random.default_rng([self.seed, epoch, index])
        mirrored = self.flip and rng.random() < 0.5
        upside_down = self.flip_vertical and rng.random() < 0.5
        short_side = self.short_sides[int(rng.integers(len(self.short_sides)))]
        sample = Sample(
            image=image,
            annotation=self.dataset.annotations[index],
            proposals=None if self.proposals is None else self.proposals.boxes(index),
            seed=int(rng.integers(2**62)),
            short_side=short_side,
        )
        if self.color_jitter > 0:
            factors = rng.uniform(1 - self.color_jitter, 1 + self.color_jitter, size=3).tolist()
            sample = replace(sample, image=recolored(sample.image, *factors))
        sample = flipped(sample) if mirrored else sample
        return flipped_vertically(sample) if upside_down else sample

    def _readable(self, epoch: int, index: int) -> tuple[int, Tensor]:
        """An image, or the first of those drawn in its place by (seed, epoch, index) that can be read.

        The rest of the sample is drawn for the image that is taken, so nothing depends on what was tried before.
        """
        chosen = index
        for attempt in range(ATTEMPTS):
            try:
                return chosen, self.dataset.image(chosen)
            except ValueError as error:  # noqa: PERF203
                if not self.skip_unreadable or attempt == ATTEMPTS - 1:
                    raise
                self.num_skipped += 1
                log.warning("skipped (%d by this process): %s", self.num_skipped, error)
                chosen = int(np.random.default_rng([self.seed, epoch, index, attempt]).integers(len(self)))
        raise AssertionError("unreachable")


class EvaluationView:
    """A dataset as evaluation sees it: every image once, as it is."""

    def __init__(self, dataset: Dataset, proposals: ProposalSource | None, *, short_side: int) -> None:
        self.dataset = dataset
        self.proposals = proposals
        self.short_side = short_side

    def __len__(self) -> int:
        return len(self.dataset.annotations)

    def __getitem__(self, index: int) -> Sample:
        """The sample of an image."""
        return Sample(
            image=self.dataset.image(index),
            annotation=self.dataset.annotations[index],
            proposals=None if self.proposals is None else self.proposals.boxes(index),
            seed=index,
            short_side=self.short_side,
        )


def recolored(image: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    """The image [3, H, W] uint8 with these factors, 1 leaving it as it is. Source: SSD 2.2, its photometric changes."""
    image = adjust_contrast(adjust_brightness(image, brightness), contrast)
    recolored: Tensor = adjust_saturation(image, saturation)
    return recolored


def flipped(sample: Sample) -> Sample:
    """The sample mirrored left to right, boxes and proposals with it."""
    width = sample.annotation.width
    return replace(
        sample,
        image=torch.flip(sample.image, (2,)),
        annotation=replace(sample.annotation, boxes=box_ops.flip(sample.annotation.boxes, width)),
        proposals=None if sample.proposals is None else box_ops.flip(sample.proposals, width),
    )


def flipped_vertically(sample: Sample) -> Sample:
    """The sample upside down, boxes and proposals with it."""
    height = sample.annotation.height
    return replace(
        sample,
        image=torch.flip(sample.image, (1,)),
        annotation=replace(sample.annotation, boxes=box_ops.flip_vertical(sample.annotation.boxes, height)),
        proposals=None if sample.proposals is None else box_ops.flip_vertical(sample.proposals, height),
    )
