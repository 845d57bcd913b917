"""Data loaders: from a dataset's samples to the detector's batches, and the order of the training images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.utils.data import DataLoader, Sampler, get_worker_info

from detector.configs import schema
from detector.datasets.augment import EvaluationView, TrainingView
from detector.datasets.sample import Annotation, Sample
from detector.engine.seed import derive
from detector.pipeline.loader_workers import LoaderWorkers
from detector.pipeline.loading_errors import loading_errors
from detector.pipeline.shared_memory import share
from detector.structures import Batch, Instances, Proposals


class TrainingOrder(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) from step `first_step` on, with a new permutation in each epoch.

    The images of step s depend only on (seed, s). So a resumed run continues with the right images, with any number of
    workers. The last incomplete batch of an epoch is dropped, as in the original. Each of `world_size` processes gets
    an equal part of every batch.

    `is_tall` marks the images that are taller than wide. If given, all images of a batch are tall or all are wide, so
    that they need little padding. Only the rest of both kinds is mixed (py-faster-rcnn's ASPECT_GROUPING).
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        *,
        seed: int,
        first_step: int,
        last_step: int,
        rank: int,
        world_size: int,
        is_tall: Sequence[bool] | None = None,
    ) -> None:
        if num_images < batch_size:
            raise ValueError(
                f"trainer.images_per_step is {batch_size}, but the training split has only {num_images} images; "
                "lower it"
            )
        if batch_size % world_size:
            raise ValueError(f"trainer.images_per_step is {batch_size}; expected a multiple of {world_size} processes")
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.first_step = first_step
        self.last_step = last_step
        self.is_tall = is_tall
        self.share = slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)

    def __len__(self) -> int:
        return max(0, self.last_step - self.first_step)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        batches: list[list[int]] = []
        ordered_epoch = -1
        for step in range(self.first_step, self.last_step):
            epoch, position = divmod(step, self.num_images // self.batch_size)
            if epoch != ordered_epoch:
                batches, ordered_epoch = self._batches(epoch), epoch
            yield [(epoch, index) for index in batches[position][self.share]]

    def _batches(self, epoch: int) -> list[list[int]]:
        """Return all batches of an epoch, in order."""
        generator = torch.Generator().manual_seed(derive("order", self.seed, epoch))
        order: list[int] = torch.randperm(self.num_images, generator=generator).tolist()
        if self.is_tall is None:
            return self._cut(order)
        kinds = [[index for index in order if self.is_tall[index] == tall] for tall in (True, False)]
        left = [index for kind in kinds for index in kind[len(kind) // self.batch_size * self.batch_size :]]
        batches = [batch for indices in (*kinds, left) for batch in self._cut(indices)]
        return [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]

    def _cut(self, indices: list[int]) -> list[list[int]]:
        """Split the indices into full batches. Drop the rest."""
        size = self.batch_size
        return [indices[start : start + size] for start in range(0, len(indices) - size + 1, size)]


def training_order(
    settings: schema.TrainerConfig,
    annotations: Sequence[Annotation],
    *,
    first_step: int,
    last_step: int,
    rank: int = 0,
    world_size: int = 1,
) -> TrainingOrder:
    """Return the order in which a training of these settings sees the images of `annotations`."""
    return TrainingOrder(
        len(annotations),
        settings.images_per_step,
        seed=settings.seed,
        first_step=first_step,
        last_step=last_step,
        rank=rank,
        world_size=world_size,
        is_tall=[item.height > item.width for item in annotations] if settings.group_by_aspect else None,
    )


def collate(samples: Sequence[Sample]) -> Batch:
    """Return the samples as a batch for the detector. Images keep their sizes."""
    proposals = [
        None if item.proposals is None else Proposals(item.proposals, torch.zeros(len(item.proposals)))
        for item in samples
    ]
    given = [item for item in proposals if item is not None]
    return Batch(
        images=[item.image for item in samples],
        instances=[
            Instances(item.annotation.boxes, item.annotation.labels, item.annotation.difficult) for item in samples
        ],
        proposals=given if len(given) == len(samples) else None,
        image_ids=[item.annotation.image_id for item in samples],
        seeds=[item.seed for item in samples],
        short_sides=[item.short_side for item in samples],
    )


def _collate_in_worker(samples: Sequence[Sample]) -> Batch:
    batch = collate(samples)
    if get_worker_info() is not None:
        share(batch)
    return batch


@contextmanager
def training_loader(
    view: TrainingView, order: TrainingOrder, *, workers: int, pin_memory: bool, prefetch: int = 2
) -> Iterator[Iterator[Batch]]:
    """Context with the batches in `order`. Each worker prefetches `prefetch` batches, and ends with the context.

    Raises the errors of reading a sample, and ChildProcessError if a worker dies, each as one line.
    """
    with loading_errors(), LoaderWorkers() as own:
        yield own.batches(_loader(view, order, workers, prefetch if workers else None, pin_memory, own))


def in_batches(num_images: int, batch_size: int) -> list[list[int]]:
    """Return batches with every image once, in order. The last batch may be smaller."""
    indices = list(range(num_images))
    return [indices[start : start + batch_size] for start in range(0, num_images, batch_size)]


@contextmanager
def evaluation_loader(
    view: EvaluationView, batches: Sequence[list[int]], *, workers: int, pin_memory: bool
) -> Iterator[Iterator[Batch]]:
    """Context with the given batches of images. Workers and errors are as in `training_loader`."""
    with loading_errors(), LoaderWorkers() as own:
        yield own.batches(_loader(view, batches, workers, None, pin_memory, own))


def _loader(
    view: TrainingView | EvaluationView,
    batches: TrainingOrder | Sequence[list[int]],
    workers: int,
    prefetch: int | None,
    pin_memory: bool,
    own: LoaderWorkers,
) -> DataLoader[Batch]:
    """Return the loader, with a separate generator, so that its iterator does not change the global random state."""
    return DataLoader(
        view,  # type: ignore[arg-type]  # the loader's type is that of collated items
        batch_sampler=batches,  # keys of the view: (epoch, index) in training, index in evaluation
        collate_fn=_collate_in_worker,
        num_workers=workers,
        prefetch_factor=prefetch,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=own.init_worker,
    )
