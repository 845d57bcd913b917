"""Random and hard-example sampling: counts, properties, and the dependence on the seed."""

import logging
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detector.sampling import HardExampleMining, RandomSampling, take_best
from detector.targets import Candidates

FAST_RCNN = RandomSampling(rois_per_image=64, foreground_fraction=0.25)


def candidates(foreground: int, background: int, ignored: int = 0, seed: int = 0) -> Candidates:
    """Return candidates in random order. The first coordinate of a box is its number from 1, to identify it."""
    labels = torch.tensor([3] * foreground + [0] * background + [-1] * ignored, dtype=torch.int64)
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    number = torch.arange(1.0, len(labels) + 1)
    boxes = torch.stack((number, number, number + 5, number + 5), dim=1).reshape(-1, 4)
    return Candidates(boxes, labels, boxes + 1)


def no_score(_: Sequence[Candidates]) -> list[Tensor]:
    raise AssertionError("random sampling asks no loss")


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        ((100, 1000), (16, 48)),  # the paper's 25 % of 64
        ((5, 1000), (5, 59)),  # background fills the rest
        ((100, 20), (16, 20)),  # foreground does not fill the rest
        ((0, 1000), (0, 64)),
        ((100, 0), (16, 0)),
        ((0, 0), (0, 0)),
    ],
)
def test_a_quarter_is_foreground_if_there_is_enough(available: tuple[int, int], expected: tuple[int, int]) -> None:
    sampled = FAST_RCNN([candidates(*available, ignored=30)], [0], no_score)
    (labels,) = sampled.labels
    assert ((labels > 0).sum(), (labels == 0).sum()) == expected
    assert len(labels) == len(sampled.boxes[0]) == len(sampled.gt_boxes[0]) == 64
    assert sampled.box_normalizer.item() == sum(expected)


@given(st.integers(0, 40), st.integers(0, 80), st.integers(0, 10), st.integers(0, 2**62))
def test_chosen_candidates_are_distinct_and_keep_their_labels(fg: int, bg: int, ignored: int, seed: int) -> None:
    item = candidates(fg, bg, ignored)
    sampled = FAST_RCNN([item], [seed], no_score)
    labels, boxes, truths = sampled.labels[0], sampled.boxes[0], sampled.gt_boxes[0]
    chosen = labels >= 0
    numbers = boxes[chosen, 0].long() - 1
    assert len(set(numbers.tolist())) == int(chosen.sum())
    assert torch.equal(item.labels[numbers], labels[chosen])
    assert torch.equal(item.gt_boxes[numbers], truths[chosen])
    assert int((labels > 0).sum()) == min(fg, 16)
    assert int((labels == 0).sum()) == min(bg, 64 - min(fg, 16))


def test_every_candidate_is_chosen_equally_often() -> None:
    item = candidates(32, 96)
    times = torch.zeros(129)
    for seed in range(400):
        sampled = FAST_RCNN([item], [seed], no_score)
        times[sampled.boxes[0][sampled.labels[0] >= 0, 0].long()] += 1
    shares = times[1:] / 400  # expected one half; the standard deviation of each share is 0.025
    assert shares.min() > 0.35
    assert shares.max() < 0.65


def test_the_choice_depends_on_the_image_not_on_its_position_in_the_batch() -> None:
    first, second = candidates(30, 200, seed=1), candidates(30, 200, seed=2)
    together = FAST_RCNN([first, second], [11, 12], no_score)
    swapped = FAST_RCNN([second, first], [12, 11], no_score)
    assert torch.equal(together.boxes[0], swapped.boxes[1])
    assert torch.equal(together.labels[1], swapped.labels[0])
    assert not torch.equal(FAST_RCNN([first], [13], no_score).boxes[0], together.boxes[0])


def test_sampling_does_not_change_the_global_generator() -> None:
    before = torch.get_rng_state()
    FAST_RCNN([candidates(30, 200)], [5], no_score)
    assert torch.equal(torch.get_rng_state(), before)


def score_with(*losses: Tensor):  # type: ignore[no-untyped-def]
    return lambda items: list(losses)


def test_mining_keeps_the_largest_losses_of_each_image() -> None:
    item = candidates(10, 190)
    first, second = (torch.rand(200, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    sampled = HardExampleMining(rois_per_image=128)([item, item], [0, 0], score_with(first, second))
    for loss, boxes, labels in zip((first, second), sampled.boxes, sampled.labels, strict=True):
        expected = loss.argsort(descending=True)[:128] + 1
        assert boxes[:, 0].long().tolist() == expected.tolist()
        assert torch.equal(labels, item.labels[expected - 1])


def test_mining_never_takes_ignored_candidates_but_takes_those_of_zero_loss() -> None:
    item = candidates(2, 5, ignored=4)
    loss = torch.where(item.labels < 0, 100.0, 0.0)
    sampled = HardExampleMining(rois_per_image=16)([item], [0], score_with(loss))
    labels = sampled.labels[0]
    assert len(labels) == 16
    assert sorted(labels.tolist()) == [-1] * 9 + [0] * 5 + [3] * 2


def test_mining_divides_the_box_loss_by_a_constant() -> None:
    """As in `box_annotator_ohem_layer.cu`: B per image, even if the image has fewer RoIs."""
    sampled = HardExampleMining(rois_per_image=128)(
        [candidates(1, 3), candidates(0, 0)], [0, 0], score_with(torch.ones(4), torch.zeros(0))
    )
    assert sampled.box_normalizer.item() == 256


def test_mining_logs_the_mean_loss_of_all_labelled_rois() -> None:
    item = candidates(1, 2, ignored=1)
    loss = torch.where(item.labels < 0, 50.0, torch.where(item.labels > 0, 7.0, 1.0))
    sampled = HardExampleMining(rois_per_image=2)([item], [0], score_with(loss))
    assert sampled.losses["loss_all_rois"].value().item() == pytest.approx(3.0)


def test_mining_logs_the_mean_loss_of_the_mined_rois() -> None:
    losses = [torch.tensor([5.0, 1.0, 3.0, 2.0]), torch.tensor([0.5, 0.1])]
    sampled = HardExampleMining(rois_per_image=2)([candidates(0, 4), candidates(0, 2)], [0, 0], score_with(*losses))
    assert sampled.losses["loss_mined_rois"].value().item() == pytest.approx((5 + 3 + 0.5 + 0.1) / 4)


@pytest.mark.parametrize(("available", "warnings"), [(9, 0), (8, 1), (3, 1)])
def test_mining_warns_once_if_it_keeps_every_roi(
    available: int, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    mining = HardExampleMining(rois_per_image=8)
    with caplog.at_level(logging.WARNING, logger="detector"):
        for _ in range(2):
            items = [candidates(1, 20), candidates(1, available - 1)]
            mining(items, [0, 0], score_with(torch.rand(21), torch.rand(available)))
    assert len(caplog.records) == warnings
    if warnings:
        assert f"only {available} RoIs and sampling.rois_per_image is 8" in caplog.text


def test_mining_takes_rois_with_a_nan_loss() -> None:
    """Without them the reported loss would be zero, although the weights are already NaN."""
    item = candidates(2, 6)
    sampled = HardExampleMining(rois_per_image=4)([item], [0], score_with(torch.full((8,), torch.nan)))
    assert (sampled.labels[0] >= 0).all()


def test_candidates_of_equal_priority_are_taken_in_order() -> None:
    kept = take_best(candidates(0, 50), torch.ones(50), 10)
    assert kept.boxes[:, 0].tolist() == list(range(1, 11))
