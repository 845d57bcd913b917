"""The order of training images: a function of seed and step only."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detector.datasets.augment import EvaluationView, TrainingView
from detector.datasets.proposal_grid import GridProposals
from detector.datasets.synthetic import SyntheticDataset
from detector.pipeline.loaders import (
    TrainingOrder,
    collate,
    evaluation_loader,
    in_batches,
    training_loader,
)
from detector.structures import Batch

Step = list[tuple[int, int]]


def order(images: int = 10, batch: int = 3, **changes: Any) -> list[Step]:
    settings: dict[str, Any] = {"seed": 3, "first_step": 0, "last_step": 12, "rank": 0, "world_size": 1, **changes}
    return list(TrainingOrder(images, batch, **settings))


@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 100))
def test_an_epoch_shows_each_image_at_most_once_and_drops_the_incomplete_batch(n: int, batch: int, seed: int) -> None:
    batch = min(n, batch)
    steps = n // batch
    found_order = order(n, batch, seed=seed, last_step=2 * steps)
    for epoch in range(2):
        seen = [key for step in found_order[epoch * steps : (epoch + 1) * steps] for key in step]
        assert {found for found, _ in seen} == {epoch}
        assert len({index for _, index in seen}) == len(seen) == steps * batch


@given(st.integers(0, 30), st.integers(0, 5))
def test_a_resumed_order_continues_at_its_step(first: int, seed: int) -> None:
    assert order(seed=seed, first_step=first, last_step=31) == order(seed=seed, last_step=31)[first:]


def test_each_seed_and_epoch_has_its_own_order() -> None:
    assert order(seed=1) != order(seed=2)
    first, second = order()[:3], order()[3:6]
    assert [[i for _, i in step] for step in first] != [[i for _, i in step] for step in second]


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_divide_every_batch(world_size: int) -> None:
    whole = order(20, 4)
    parts = [order(20, 4, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step, expected in enumerate(whole):
        assert [key for part in parts for key in part[step]] == expected


@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 2**40 - 1), st.integers(0, 30))
def test_at_most_one_batch_mixes_kinds_and_resuming_keeps_the_order(n: int, batch: int, tall: int, first: int) -> None:
    batch = min(n, batch)
    kinds = [bool(tall >> index & 1) for index in range(n)]
    steps = n // batch
    found_order = order(n, batch, last_step=2 * steps + first, is_tall=kinds)
    for epoch in range(2):
        keys = [[index for _, index in step] for step in found_order[epoch * steps : (epoch + 1) * steps]]
        assert sum(len({kinds[index] for index in step}) > 1 for step in keys) <= 1
        seen = [index for step in keys for index in step]
        assert len(set(seen)) == len(seen) == steps * batch
    assert order(n, batch, first_step=first, last_step=2 * steps + first, is_tall=kinds) == found_order[first:]


def test_the_length_is_the_number_of_remaining_steps() -> None:
    for first, last, expected in ((0, 12, 12), (5, 12, 7), (12, 12, 0), (15, 12, 0)):
        found_order = TrainingOrder(10, 3, seed=0, first_step=first, last_step=last, rank=0, world_size=1)
        assert len(found_order) == len(list(found_order)) == expected


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ValueError, match="images_per_step is 11, but the training split has only 10 images"):
        order(10, 11)
    with pytest.raises(ValueError, match="images_per_step is 3; expected a multiple of 2 processes"):
        order(10, 3, world_size=2)


def same(first: Batch, second: Batch) -> bool:
    tensors = [
        (a, b)
        for one, other in ((first, second),)
        for a, b in zip(
            [*one.images, *(i.boxes for i in one.instances), *(p.boxes for p in one.proposals or [])],
            [*other.images, *(i.boxes for i in other.instances), *(p.boxes for p in other.proposals or [])],
            strict=True,
        )
    ]
    plain = (first.image_ids, first.seeds, first.short_sides) == (second.image_ids, second.seeds, second.short_sides)
    return plain and all(torch.equal(a, b) for a, b in tensors)


@pytest.fixture(scope="module")
def view() -> TrainingView:
    dataset = SyntheticDataset("train", num_images=7, height=40, width=50, seed=0)
    grid = GridProposals(dataset, (0.3, 0.6), (1.0,), 0.5)
    return TrainingView(dataset, grid, flip=True, short_sides=(40, 60), seed=3)


@pytest.fixture(scope="module")
def augmented(view: TrainingView) -> TrainingView:
    return TrainingView(
        view.dataset, None, flip=True, crop=0.5, mosaic=0.5, scale_jitter=(0.5, 2.0), short_sides=(40, 60), seed=3
    )


@pytest.mark.parametrize("kind", ["view", "augmented"])
def test_batches_depend_neither_on_workers_nor_on_the_global_generator(
    kind: str, request: pytest.FixtureRequest
) -> None:
    view = request.getfixturevalue(kind)

    def batches(workers: int, seed: int, first_step: int = 2) -> list[Batch]:
        torch.manual_seed(seed)
        steps = TrainingOrder(7, 2, seed=3, first_step=first_step, last_step=8, rank=0, world_size=1)
        with training_loader(view, steps, workers=workers, pin_memory=False) as loaded:
            return list(loaded)

    alone = batches(0, 0)
    before = torch.random.get_rng_state()
    assert len(alone) == 6
    for workers in (1, 2):
        assert all(same(a, b) for a, b in zip(alone, batches(workers, 99), strict=True))
    assert all(same(a, b) for a, b in zip(alone[2:], batches(0, 5, first_step=4), strict=True)), "after a resume"
    torch.manual_seed(0)
    assert torch.equal(before, torch.random.get_rng_state())  # loading drew no random number


def test_a_flipped_sample_mirrors_its_image_boxes_and_proposals(view: TrainingView) -> None:
    pairs = [(view[(epoch, 2)], view.dataset.image(2)) for epoch in range(12)]
    flipped = [sample for sample, image in pairs if not torch.equal(sample.image, image)]
    assert 0 < len(flipped) < 12
    truth = view.dataset.annotations[2]
    for sample in flipped:
        assert torch.equal(sample.image.flip(2), view.dataset.image(2))
        expected = truth.boxes[:, [2, 1, 0, 3]] * torch.tensor([-1.0, 1, -1, 1]) + torch.tensor([50.0, 0, 50, 0])
        assert torch.equal(sample.annotation.boxes, expected)


def test_evaluation_sees_every_image_once_in_order(view: TrainingView) -> None:
    evaluated = EvaluationView(view.dataset, None, short_side=40)
    with evaluation_loader(evaluated, in_batches(len(evaluated), 3), workers=0, pin_memory=False) as loaded:
        batches = list(loaded)
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert [i for batch in batches for i in batch.image_ids] == [a.image_id for a in view.dataset.annotations]
    assert all(batch.proposals is None for batch in batches)


def test_a_batch_keeps_images_of_different_sizes() -> None:
    datasets = [SyntheticDataset("train", num_images=1, height=side, width=50, seed=0) for side in (40, 60)]
    batch = collate([EvaluationView(dataset, None, short_side=40)[0] for dataset in datasets])
    assert [tuple(image.shape) for image in batch.images] == [(3, 40, 50), (3, 60, 50)]
