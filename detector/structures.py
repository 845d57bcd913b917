"""The data types that the parts of a detector exchange.

Boxes are float32 xyxy in pixels, 0-based, continuous and half-open: width is x2 - x1. Labels count from 1; 0 is
background; -1 means "ignore". RoIs are boxes of several images in one tensor [R, 5]: the index of the image in the
batch, then x1 y1 x2 y2 in the pixels of the network's input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

T = TypeVar("T", bound="Instances | Proposals | Detections")


def _move(item: T, device: torch.device | str, non_blocking: bool) -> T:
    moved = {f.name: getattr(item, f.name).to(device, non_blocking=non_blocking) for f in fields(item)}
    return replace(item, **moved)


@dataclass(frozen=True, slots=True)
class Instances:
    """Ground truth of one image, in the pixels of that image."""

    boxes: Tensor  # [G, 4] float32 xyxy
    labels: Tensor  # [G] int64, 1..num_classes
    difficult: Tensor  # [G] bool: used in training by policy, ignored by the VOC metric

    def __len__(self) -> int:
        return self.boxes.shape[0]

    def __getitem__(self, keep: Tensor) -> Instances:
        return Instances(self.boxes[keep], self.labels[keep], self.difficult[keep])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Instances:
        """Return a copy on the device."""
        return _move(self, device, non_blocking)


@dataclass(frozen=True, slots=True)
class Proposals:
    """Candidate boxes of one image, best first if scores are known."""

    boxes: Tensor  # [P, 4] float32 xyxy
    scores: Tensor  # [P] float32; zeros if the source gives no scores

    def __len__(self) -> int:
        return self.boxes.shape[0]

    def __getitem__(self, keep: Tensor) -> Proposals:
        return Proposals(self.boxes[keep], self.scores[keep])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Proposals:
        """Return a copy on the device."""
        return _move(self, device, non_blocking)


@dataclass(frozen=True, slots=True)
class Detections:
    """The detected objects of one image, best first, in the pixels of the original image."""

    boxes: Tensor  # [D, 4] float32 xyxy
    scores: Tensor  # [D] float32 in [0, 1]
    labels: Tensor  # [D] int64, 1..num_classes

    def __len__(self) -> int:
        return self.boxes.shape[0]

    def __getitem__(self, keep: Tensor) -> Detections:
        return Detections(self.boxes[keep], self.scores[keep], self.labels[keep])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Detections:
        """Return a copy on the device."""
        return _move(self, device, non_blocking)


@dataclass(frozen=True, slots=True)
class Batch:
    """Decoded images with their annotations and proposals; `preprocess.py` turns them into the network's input.

    `seeds` and `short_sides` make the random choices depend on each image only: the sampler uses the image's own seed,
    and the training scale is chosen when the image is loaded. So neither the grouping of images into batches nor the
    number of processes changes them.
    """

    images: list[Tensor]  # N of [3, H_i, W_i] uint8 RGB
    instances: list[Instances]  # N, boxes in the pixels of their image
    proposals: list[Proposals] | None  # N, boxes in the pixels of their image; None if a proposal network is used
    image_ids: list[str]  # N
    seeds: list[int]  # N, for the sampler
    short_sides: list[int]  # N, the shorter side to resize to

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Return a copy on the device."""
        return replace(
            self,
            images=[image.to(device, non_blocking=non_blocking) for image in self.images],
            instances=[item.to(device, non_blocking) for item in self.instances],
            proposals=None if self.proposals is None else [item.to(device, non_blocking) for item in self.proposals],
        )

    def split(self, parts: int) -> list[Batch]:
        """Split the images, in order, into `parts` batches of equal size. Raises ValueError if that is impossible."""
        size, rest = divmod(len(self), parts)
        if rest:
            raise ValueError(f"expected a number of images that is a multiple of {parts}, got {len(self)}")
        cuts = [slice(start, start + size) for start in range(0, len(self), size)]
        return [
            Batch(
                images=self.images[cut],
                instances=self.instances[cut],
                proposals=None if self.proposals is None else self.proposals[cut],
                image_ids=self.image_ids[cut],
                seeds=self.seeds[cut],
                short_sides=self.short_sides[cut],
            )
            for cut in cuts
        ]

    def pin_memory(self) -> Batch:
        """Copy to pinned memory, for asynchronous copies to the device. The loader's pinning thread calls this."""

        def pin(item: T) -> T:
            return replace(item, **{f.name: getattr(item, f.name).pin_memory() for f in fields(item)})

        return replace(
            self,
            images=[image.pin_memory() for image in self.images],
            instances=[pin(item) for item in self.instances],
            proposals=None if self.proposals is None else [pin(item) for item in self.proposals],
        )


class FeatureMaps(NamedTuple):
    """A backbone's output: the maps for a proposal network, and the maps for the head (often the same).

    Each is a list of maps, the finest first. A backbone without a pyramid gives lists with one map.
    """

    proposals: Sequence[Tensor]  # of [N, C_p, H_i, W_i]
    head: Sequence[Tensor]  # of [N, C_h, H_i, W_i]


class RoIPredictions(NamedTuple):
    """The output of a head of any kind for R RoIs."""

    logits: Tensor  # [R, num_classes + 1], background first
    deltas: Tensor  # [R, num_classes or 1, 4] normalised (tx, ty, tw, th); 1 for class-agnostic box regression


class RoITargets(NamedTuple):
    """The training targets of R RoIs."""

    labels: Tensor  # [R] int64: 0 background, 1..num_classes, -1 ignored (padding, or an easy RoI under OHEM)
    deltas: Tensor  # [R, 4] normalised regression targets; valid only where labels > 0
    boxes: Tensor  # [R, 4] the RoIs, in the input's pixels
    gt_boxes: Tensor  # [R, 4] their ground-truth boxes, in the input's pixels; valid only where labels > 0


class Mean(NamedTuple):
    """A mean, stored as sum and normalizer: the mean over several batches is not the mean of their means."""

    sum: Tensor  # scalar
    normalizer: Tensor  # scalar, the number of summed values; `value` divides by at least 1

    def value(self) -> Tensor:
        """Return the mean, a scalar; 0 for nothing."""
        return self.sum / self.normalizer.clamp(min=1)


class Losses(NamedTuple):
    """Named losses of some images. Training minimises the sum of the terms."""

    terms: dict[str, Mean]  # with their weights applied
    means: dict[str, Mean]  # for the log only
    counts: dict[str, Tensor]  # name -> scalar, for the log only: foreground and background RoIs, ...

    @property
    def parts(self) -> dict[str, Tensor]:
        """The value of each term, a scalar."""
        return {name: mean.value() for name, mean in self.terms.items()}

    def total(self) -> Tensor:
        """Return the sum of the terms, a scalar."""
        return torch.stack(list(self.parts.values())).sum()

    def loss_normalizers(self) -> dict[str, Tensor]:
        """Return the normalizer of each term and each mean, a scalar."""
        return {name: mean.normalizer for name, mean in {**self.terms, **self.means}.items()}

    def divided_by(self, loss_normalizers: Mapping[str, Tensor]) -> Losses:
        """Return the share of these images in the losses of a larger set, whose scalars are `loss_normalizers`."""
        terms, means = (
            {name: Mean(mean.sum, loss_normalizers[name]) for name, mean in group.items()}
            for group in (self.terms, self.means)
        )
        return Losses(terms, means, self.counts)

    @staticmethod
    def joined(shares: Sequence[Losses]) -> Losses:
        """Return the sum of shares with equal loss normalizers, without gradients."""
        first = shares[0]
        terms, means = (
            {
                name: Mean(_total([getattr(s, group)[name].sum for s in shares]), mean.normalizer)
                for name, mean in own.items()
            }
            for group, own in (("terms", first.terms), ("means", first.means))
        )
        return Losses(terms, means, {name: _total([share.counts[name] for share in shares]) for name in first.counts})


def _total(values: list[Tensor]) -> Tensor:
    return torch.stack([value.detach() for value in values]).sum()
