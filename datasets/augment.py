"""The samples that training and evaluation read from a dataset.

A training sample is a function of (seed, epoch, index): each sample has its own random generator for flip, scale and
the sampler's seed. So neither the number of loader workers nor an interruption changes the samples.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from detector.datasets.sample import Dataset, Sample
from detector.ops import boxes as box_ops

log = logging.getLogger("detector")

ATTEMPTS = 20  # number of images tried for one sample before the error is raised


class ProposalSource(Protocol):
    """Candidate boxes of each image of a dataset, in the pixels of the original image."""

    def boxes(self, index: int) -> Tensor:
        """Return the boxes [P, 4] float32 xyxy of one image."""
        ...


class TrainingView:
    """The training samples of a dataset; keys are (epoch, index)."""

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
        """`flip` mirrors half of the samples left to right, `flip_vertical` half of them upside down.

        `short_sides` are the training scales; each sample gets one at random. `color_jitter` is the largest deviation
        from 1 of the factors for brightness, contrast and saturation. With `skip_unreadable`, another image replaces
        one that cannot be read.
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
        """Return the sample of (epoch, index). Raises ValueError for an unreadable image, unless it is skipped."""
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
        """Return the index and the pixels of an image; if it is unreadable, of the first readable replacement.

        (seed, epoch, index) determine the replacements. The rest of the sample depends on the returned index only,
        not on the images tried before.
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
    """The evaluation samples of a dataset: every image once, without augmentation."""

    def __init__(self, dataset: Dataset, proposals: ProposalSource | None, *, short_side: int) -> None:
        self.dataset = dataset
        self.proposals = proposals
        self.short_side = short_side

    def __len__(self) -> int:
        return len(self.dataset.annotations)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample of an image."""
        return Sample(
            image=self.dataset.image(index),
            annotation=self.dataset.annotations[index],
            proposals=None if self.proposals is None else self.proposals.boxes(index),
            seed=index,
            short_side=self.short_side,
        )


def recolored(image: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    """Return the image [3, H, W] uint8 with changed colors; a factor of 1 changes nothing.

    Source: the photometric distortions of SSD 2.2.
    """
    # Loading torchvision takes seconds. Commands that train nothing do not need it.
    from torchvision.transforms.v2.functional import adjust_brightness, adjust_contrast, adjust_saturation

    image = adjust_contrast(adjust_brightness(image, brightness), contrast)
    recolored: Tensor = adjust_saturation(image, saturation)
    return recolored


def flipped(sample: Sample) -> Sample:
    """Return the sample mirrored left to right, with its boxes and proposals."""
    width = sample.annotation.width
    return replace(
        sample,
        image=torch.flip(sample.image, (2,)),
        annotation=replace(sample.annotation, boxes=box_ops.flip(sample.annotation.boxes, width)),
        proposals=None if sample.proposals is None else box_ops.flip(sample.proposals, width),
    )


def flipped_vertically(sample: Sample) -> Sample:
    """Return the sample mirrored upside down, with its boxes and proposals."""
    height = sample.annotation.height
    return replace(
        sample,
        image=torch.flip(sample.image, (1,)),
        annotation=replace(sample.annotation, boxes=box_ops.flip_vertical(sample.annotation.boxes, height)),
        proposals=None if sample.proposals is None else box_ops.flip_vertical(sample.proposals, height),
    )
