"""Samplers choose the RoIs of a training step: a random mix of foreground and background, or the hardest RoIs.

A sampler returns a fixed number of RoIs per image, padded with label -1. So shapes do not depend on the data, which
compilation and distributed training need, and the host does not wait for the device. Random choices use each image's
own seed, so they do not depend on the other images of the batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from detector.structures import Mean
from detector.targets import Candidates

log = logging.getLogger("detector")


class Sampled(NamedTuple):
    """The chosen RoIs of a batch: N lists, one per image, of B RoIs."""

    boxes: list[Tensor]  # N of [B, 4], input pixels
    labels: list[Tensor]  # N of [B] int64, -1 for padding
    gt_boxes: list[Tensor]  # N of [B, 4], see `Candidates`
    box_normalizer: Tensor  # scalar, divides the summed box loss
    losses: dict[str, Mean]  # for the log


# Candidates of every image -> the loss [R] float32 of each RoI, one tensor per image, computed without gradient.
ScoreRoIs = Callable[[Sequence[Candidates]], list[Tensor]]


class Sampler(Protocol):
    """Interface of a sampler of RoIs."""

    def __call__(self, candidates: Sequence[Candidates], seeds: Sequence[int], score: ScoreRoIs) -> Sampled:
        """Return the chosen RoIs of each image. A seed belongs to an image; `score` gives RoIs a loss."""
        ...


@dataclass(frozen=True, slots=True)
class RandomSampling:
    """A random sample: at most `foreground_fraction` foreground, the rest background (Fast R-CNN 2.3).

    Both are drawn without replacement.
    """

    rois_per_image: int
    foreground_fraction: float

    def __call__(self, candidates: Sequence[Candidates], seeds: Sequence[int], score: ScoreRoIs) -> Sampled:
        """Return random RoIs of each image, drawn by its seed."""
        chosen = [self._choose(item, seed) for item, seed in zip(candidates, seeds, strict=True)]
        count = (torch.cat([item.labels for item in chosen]) >= 0).sum()
        return Sampled(
            boxes=[item.boxes for item in chosen],
            labels=[item.labels for item in chosen],
            gt_boxes=[item.gt_boxes for item in chosen],
            box_normalizer=count,
            losses={},
        )

    def _choose(self, item: Candidates, seed: int) -> Candidates:
        return take_best(item, self.priority(item.labels, seed), self.rois_per_image)

    def priority(self, labels: Tensor, seed: int) -> Tensor:
        """Return the priority [P] of candidates with labels [P]: 2 chosen foreground, 1 chosen background, 0 the rest.

        Ranks foreground and background by a random key. No shape depends on how many there are.
        """
        generator = torch.Generator().manual_seed(seed)
        key = torch.rand(len(labels), generator=generator).to(labels.device, non_blocking=True)
        is_foreground, is_background = labels > 0, labels == 0
        max_foreground = round(self.foreground_fraction * self.rois_per_image)
        foreground = is_foreground & (_rank(key, is_foreground) < max_foreground)
        background = is_background & (_rank(key, is_background) < self.rois_per_image - foreground.sum())
        return torch.where(foreground, 2.0, torch.where(background, 1.0, 0.0))


@dataclass(slots=True)
class HardExampleMining:
    """The `rois_per_image` RoIs with the largest current loss (R-FCN, section 3: OHEM).

    The box loss is divided by the constant number of kept RoIs, as in `box_annotator_ohem_layer.cu`. Two means of
    classification plus box loss are logged: over all labelled RoIs, and over the mined RoIs. The second is larger,
    since these are the hard ones.
    """

    rois_per_image: int
    _warned: bool = field(default=False, init=False, repr=False)

    def __call__(self, candidates: Sequence[Candidates], seeds: Sequence[int], score: ScoreRoIs) -> Sampled:
        """Return the RoIs of each image with the largest losses."""
        self._warn_if_all_are_kept(candidates)
        losses = score(candidates)
        hardness = [
            torch.where(item.labels >= 0, _hardness(loss), 0.0) for item, loss in zip(candidates, losses, strict=True)
        ]
        chosen = [take_best(*pair, self.rois_per_image) for pair in zip(candidates, hardness, strict=True)]
        mined = torch.cat([item.topk(min(self.rois_per_image, len(item))).values for item in hardness])
        return Sampled(
            boxes=[item.boxes for item in chosen],
            labels=[item.labels for item in chosen],
            gt_boxes=[item.gt_boxes for item in chosen],
            box_normalizer=torch.tensor(self.rois_per_image * len(candidates), device=mined.device),
            losses={"loss_all_rois": _mean_above_zero(torch.cat(hardness)), "loss_mined_rois": _mean_above_zero(mined)},
        )

    def _warn_if_all_are_kept(self, candidates: Sequence[Candidates]) -> None:
        fewest = min((len(item.labels) for item in candidates), default=self.rois_per_image + 1)
        if fewest <= self.rois_per_image and not self._warned:
            self._warned = True
            log.warning(
                "an image has only %d RoIs and sampling.rois_per_image is %d, so all are kept and hard example mining "
                "has no effect; lower sampling.rois_per_image or keep more proposals (shown once)",
                fewest,
                self.rois_per_image,
            )


def _mean_above_zero(hardness: Tensor) -> Mean:
    """Return the mean of the values of hardness [P] that are above 0."""
    return Mean(hardness.sum(), (hardness > 0).sum())


def _hardness(loss: Tensor) -> Tensor:
    """Return a priority above 0 for each loss [P]. NaN is the hardest, so that the training sees it and stops."""
    return torch.nan_to_num(loss, nan=torch.inf, posinf=torch.inf) + 1e-12


def take_best(item: Candidates, priority: Tensor, count: int) -> Candidates:
    """Return the `count` candidates of largest priority [P]. Label -1 marks padding and candidates of priority 0."""
    missing = count - len(priority)
    if missing > 0:
        item = Candidates(
            torch.cat((item.boxes, item.boxes.new_zeros(missing, 4))),
            torch.cat((item.labels, item.labels.new_full((missing,), -1))),
            torch.cat((item.gt_boxes, item.gt_boxes.new_zeros(missing, 4))),
        )
        priority = torch.cat((priority, priority.new_zeros(missing)))
    # A stable sort, so that equal priorities keep their order on every device.
    order = torch.sort(priority, descending=True, stable=True).indices[:count]
    return Candidates(item.boxes[order], torch.where(priority[order] > 0, item.labels[order], -1), item.gt_boxes[order])


def _rank(key: Tensor, among: Tensor) -> Tensor:
    """Return the rank [P] of each element of key [P], ascending, among those in mask `among` [P]; others come last."""
    order = torch.where(among, key, 2.0).argsort(stable=True)
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
