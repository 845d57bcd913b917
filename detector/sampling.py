"""Which RoIs a training step learns from: a random mix of foreground and background, or the hardest ones.

A sampler returns a fixed number of RoIs per image, padded with label -1, so that shapes do not depend on the data
(for compilation, for distributed training) and nothing waits for the device. Random choices are keyed on each image's
own seed, so that they do not depend on which images share its batch.
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
    """The chosen RoIs of a batch: B per image, image by image."""

    boxes: list[Tensor]  # N of [B, 4], input pixels
    labels: list[Tensor]  # N of [B] int64, -1 for padding
    truths: list[Tensor]  # N of [B, 4]
    box_normalizer: Tensor  # scalar: what the summed box loss is divided by
    losses: dict[str, Mean]  # for the log


# The loss of each RoI [R] float32, given candidates of every image; computed without gradient.
ScoreRoIs = Callable[[Sequence[Candidates]], list[Tensor]]


class Sampler(Protocol):
    def __call__(self, candidates: Sequence[Candidates], seeds: Sequence[int], score: ScoreRoIs) -> Sampled: ...


@dataclass(frozen=True, slots=True)
class RandomSampling:
    """At most `foreground_fraction` foreground, the rest background, both without replacement (Fast R-CNN 2.3)."""

    rois_per_image: int
    foreground_fraction: float

    def __call__(self, candidates: Sequence[Candidates], seeds: Sequence[int], score: ScoreRoIs) -> Sampled:
        chosen = [self._choose(item, seed) for item, seed in zip(candidates, seeds, strict=True)]
        count = (torch.cat([item.labels for item in chosen]) >= 0).sum()
        return Sampled(
            boxes=[item.boxes for item in chosen],
            labels=[item.labels for item in chosen],
            truths=[item.truths for item in chosen],
            box_normalizer=count,
            losses={},
        )

    def _choose(self, item: Candidates, seed: int) -> Candidates:
        return take_best(item, self.priority(item.labels, seed), self.rois_per_image)

    def priority(self, labels: Tensor, seed: int) -> Tensor:
        """2 for chosen foreground, 1 for chosen background, 0 for the rest, of labels [P].

        Candidates are ranked by a random key within foreground and background; no step depends on how many there are.
        """
        generator = torch.Generator().manual_seed(seed)
        key = torch.rand(len(labels), generator=generator).to(labels.device, non_blocking=True)
        is_foreground, is_background = labels > 0, labels == 0
        most = round(self.foreground_fraction * self.rois_per_image)
        foreground = is_foreground & (_rank(key, is_foreground) < most)
        background = is_background & (_rank(key, is_background) < self.rois_per_image - foreground.sum())
        return torch.where(foreground, 2.0, torch.where(background, 1.0, 0.0))


@dataclass(slots=True)
class HardExampleMining:
    """The `rois_per_image` RoIs with the largest current loss, of all of them (R-FCN, section 3: OHEM).

    The box loss is divided by the constant number of kept RoIs, as `box_annotator_ohem_layer.cu` has it. Two means are
    logged, of classification and box loss together: over all labelled RoIs, and over the mined ones, which are the
    hard ones and therefore worse.
    """

    rois_per_image: int
    _warned: bool = field(default=False, init=False, repr=False)

    def __call__(self, candidates: Sequence[Candidates], seeds: Sequence[int], score: ScoreRoIs) -> Sampled:
        self._warn_where_nothing_is_mined(candidates)
        losses = score(candidates)
        hardness = [
            torch.where(item.labels >= 0, _hardness(loss), 0.0) for item, loss in zip(candidates, losses, strict=True)
        ]
        chosen = [take_best(*pair, self.rois_per_image) for pair in zip(candidates, hardness, strict=True)]
        mined = torch.cat([item.topk(min(self.rois_per_image, len(item))).values for item in hardness])
        return Sampled(
            boxes=[item.boxes for item in chosen],
            labels=[item.labels for item in chosen],
            truths=[item.truths for item in chosen],
            box_normalizer=torch.tensor(self.rois_per_image * len(candidates), device=mined.device),
            losses={"loss_all_rois": _mean_above_zero(torch.cat(hardness)), "loss_mined_rois": _mean_above_zero(mined)},
        )

    def _warn_where_nothing_is_mined(self, candidates: Sequence[Candidates]) -> None:
        fewest = min((len(item.labels) for item in candidates), default=self.rois_per_image + 1)
        if fewest <= self.rois_per_image and not self._warned:
            self._warned = True
            log.warning(
                "an image has only %d RoIs and sampling.rois_per_image is %d: all are kept, nothing is mined there; "
                "lower sampling.rois_per_image or let more proposals through (told once)",
                fewest,
                self.rois_per_image,
            )


def _mean_above_zero(hardness: Tensor) -> Mean:
    """The mean of those of hardness [P] that are above 0."""
    return Mean(hardness.sum(), (hardness > 0).sum())


def _hardness(loss: Tensor) -> Tensor:
    """A priority above 0 for each loss [P]. NaN is the hardest: left out, it would ruin the weights unseen."""
    return torch.nan_to_num(loss, nan=torch.inf, posinf=torch.inf) + 1e-12


def take_best(item: Candidates, priority: Tensor, count: int) -> Candidates:
    """`count` candidates of largest priority [P]; those of priority 0, and what is missing, get label -1."""
    missing = count - len(priority)
    if missing > 0:
        item = Candidates(
            torch.cat((item.boxes, item.boxes.new_zeros(missing, 4))),
            torch.cat((item.labels, item.labels.new_full((missing,), -1))),
            torch.cat((item.truths, item.truths.new_zeros(missing, 4))),
        )
        priority = torch.cat((priority, priority.new_zeros(missing)))
    # A stable sort, so that equal priorities are taken in order on every device.
    order = torch.sort(priority, descending=True, stable=True).indices[:count]
    return Candidates(item.boxes[order], torch.where(priority[order] > 0, item.labels[order], -1), item.truths[order])


def _rank(key: Tensor, among: Tensor) -> Tensor:
    """Position of each element of key [P] in the ascending order of those in `among` [P]; others come last."""
    order = torch.where(among, key, 2.0).argsort(stable=True)
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
