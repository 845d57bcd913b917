"""From a dataset's samples to the detector's batches, and the order in which training sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.utils.data import DataLoader, Sampler, get_worker_info

from detector.datasets.augment import EvaluationView, TrainingView
from detector.datasets.sample import Sample
from detector.engine.seed import derive
from detector.pipeline.loader_workers import LoaderWorkers
from detector.pipeline.loading_errors import loading_errors
from detector.pipeline.shared_memory import share
from detector.structures import Batch, Instances, Proposals


class TrainingOrder(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) from step `first_step` on, each epoch a permutation of its own.

    What step s sees is a function of (seed, s) alone, so a resumed run goes on where it stopped, whatever the number
    of workers. An epoch's last incomplete batch is dropped, as the original drops it. With `world_size` processes each
    takes its share of every batch.

    Where `is_tall` says which images are taller than wide, a batch holds images of one kind, which need little padding,
    but for the few that are left of both (py-faster-rcnn's ASPECT_GROUPING).
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
                f"trainer.images_per_step is {batch_size}, but the training split has only {num_images} images"
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
        """All batches of an epoch, in order."""
        generator = torch.Generator().manual_seed(derive("order", self.seed, epoch))
        order: list[int] = torch.randperm(self.num_images, generator=generator).tolist()
        if self.is_tall is None:
            return self._cut(order)
        kinds = [[index for index in order if self.is_tall[index] == tall] for tall in (True, False)]
        left = [index for kind in kinds for index in kind[len(kind) // self.batch_size * self.batch_size :]]
        batches = [batch for indices in (*kinds, left) for batch in self._cut(indices)]
        return [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]

    def _cut(self, indices: list[int]) -> list[list[int]]:
        """Whole batches of the indices; what is left over is dropped."""
        size = self.batch_size
        return [indices[start : start + size] for start in range(0, len(indices) - size + 1, size)]


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples as the detector takes them; images keep their own sizes."""
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


def _handed_over(samples: Sequence[Sample]) -> Batch:
    batch = collate(samples)
    if get_worker_info() is not None:
        share(batch)
    return batch


@contextmanager
def training_loader(
    view: TrainingView, order: TrainingOrder, *, workers: int, pin_memory: bool, prefetch: int = 2
) -> Iterator[Iterator[Batch]]:
    """Context with the batches in `order`; each worker keeps `prefetch` of them ready, and none outlives the context.

    Raises what reading a sample raises, and ChildProcessError where a worker died, each as one line.
    """
    with loading_errors(), LoaderWorkers() as own:
        yield own.batches(_loader(view, order, workers, prefetch if workers else None, pin_memory, own))


def in_batches(num_images: int, batch_size: int) -> list[list[int]]:
    """Every image once, in order; the last batch may be smaller."""
    whole = list(range(num_images))
    return [whole[start : start + batch_size] for start in range(0, num_images, batch_size)]


@contextmanager
def evaluation_loader(
    view: EvaluationView, batches: Sequence[list[int]], *, workers: int, pin_memory: bool
) -> Iterator[Iterator[Batch]]:
    """Context with the images of each batch, batch by batch; otherwise as `training_loader`."""
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
    """The loader has a generator of its own: its iterator must not disturb the global one."""
    return DataLoader(
        view,  # type: ignore[arg-type]  # what collate makes of its items is the loader's type
        batch_sampler=batches,  # keys of either view
        collate_fn=_handed_over,
        num_workers=workers,
        prefetch_factor=prefetch,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=own.begin,
    )
