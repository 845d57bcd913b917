"""The samples that training and evaluation read from a dataset.

A training sample is a function of (seed, epoch, index): each sample has its own random generator for flip, scale, crop
and the sampler's seed. So neither the number of loader workers nor an interruption changes the samples. A new random
choice is drawn after all others, so that it does not change them.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from detector.datasets.crops import random_crop
from detector.datasets.mosaic import PARTS, make_mosaic
from detector.datasets.sample import Dataset, Sample
from detector.datasets.scale_jitter import jittered, planned_size
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
        crop: float = 1.0,
        mosaic: float = 0.0,
        scale_jitter: tuple[float, float] = (1.0, 1.0),
        short_sides: tuple[int, ...],
        max_side: int = sys.maxsize,
        seed: int,
        skip_unreadable: bool = False,
    ) -> None:
        """`flip` mirrors half of the samples left to right, `flip_vertical` half of them upside down.

        `short_sides` are the training scales; each sample gets one at random. `color_jitter` is the largest deviation
        from 1 of the factors for brightness, contrast and saturation. `crop` is the smallest side of a random crop, as
        a fraction of the image's side. `mosaic` is the share of samples that are mosaics of four images, without
        proposals. `scale_jitter` is the range of a factor for the size of the image, and `max_side` the longest side
        at factor 1. With `skip_unreadable`, another image replaces one that cannot be read.

        Raises ValueError for a mosaic with proposals.
        """
        if mosaic > 0 and proposals is not None:
            raise ValueError("expected no proposals with a mosaic: they are boxes of one image; use an RPN")
        self.dataset = dataset
        self.proposals = proposals
        self.flip = flip
        self.flip_vertical = flip_vertical
        self.color_jitter = color_jitter
        self.crop = crop
        self.mosaic = mosaic
        self.scale_jitter = scale_jitter
        self.short_sides = short_sides
        self.max_side = max_side
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
        seed = int(rng.integers(2**62))
        factors = None
        if self.color_jitter > 0:
            factors = rng.uniform(1 - self.color_jitter, 1 + self.color_jitter, size=3).tolist()
        sample = self._moved(self._sample(index, image, seed, short_side), epoch, rng)
        if factors is not None:
            sample = replace(sample, image=recolored(sample.image, *factors))
        sample = flipped(sample) if mirrored else sample
        return with_own_pixels(flipped_vertically(sample) if upside_down else sample)

    def _sample(self, index: int, image: Tensor, seed: int, short_side: int) -> Sample:
        """Return the sample of an image without augmentation."""
        return Sample(
            image=image,
            annotation=self.dataset.annotations[index],
            proposals=None if self.proposals is None else self.proposals.boxes(index),
            seed=seed,
            short_side=short_side,
        )

    def _moved(self, sample: Sample, epoch: int, rng: np.random.Generator) -> Sample:
        """Return the sample cropped or in a mosaic, and at a random size.

        The parts of a mosaic are cropped anyway. It is made at the size at which it is trained, so that no pixel is
        resized twice.
        """
        factor = 1.0
        if self.scale_jitter != (1.0, 1.0):
            factor = float(rng.uniform(*self.scale_jitter))
        if self.mosaic > 0 and rng.random() < self.mosaic:
            others = rng.integers(len(self), size=PARTS - 1).tolist()
            parts = [sample, *(self._sample(*self._readable(epoch, other), 0, 0) for other in others)]
            item = sample.annotation
            size = planned_size(item.width, item.height, sample.short_side, self.max_side)
            width, height = (max(2, round(side * factor)) for side in size)
            sample = make_mosaic(parts, width, height, rng)
        elif self.crop < 1:
            sample = random_crop(sample, self.crop, rng)
        return sample if factor == 1 else jittered(sample, factor, self.max_side, rng)

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


def with_own_pixels(sample: Sample) -> Sample:
    """Return the sample with a copy of its image if this is a view of a larger one.

    A view would keep the whole image in memory, and a loader worker would send all of it to the trainer.
    """
    image = sample.image
    return replace(sample, image=image.clone()) if image.untyped_storage().nbytes() > image.nbytes else sample


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
