"""Views of a dataset: a sample is a function of (seed, epoch, index), and a flip mirrors image and boxes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from detector.datasets.augment import EvaluationView, TrainingView, flipped, flipped_vertically, recolored
from detector.datasets.proposal_grid import GridProposals
from detector.datasets.sample import Sample
from detector.datasets.synthetic import SyntheticDataset

DATASET = SyntheticDataset("train", num_images=6, height=48, width=64, seed=0)
GRID = GridProposals(DATASET, (0.4,), (1.0,), 0.5)


def view(**options: object) -> TrainingView:
    plain = {"flip": True, "short_sides": (40, 48, 56), "seed": 3}
    return TrainingView(DATASET, GRID, **{**plain, **options})  # type: ignore[arg-type]


def same(a: Sample, b: Sample) -> bool:
    return (
        torch.equal(a.image, b.image)
        and torch.equal(a.annotation.boxes, b.annotation.boxes)
        and (a.seed, a.short_side) == (b.seed, b.short_side)
    )


def test_a_sample_depends_only_on_seed_epoch_and_index() -> None:
    keys = [(epoch, index) for epoch in range(4) for index in range(6)]
    forwards = {key: view()[key] for key in keys}
    again = view()
    assert all(same(again[key], forwards[key]) for key in reversed(keys))
    assert not all(same(view(seed=4)[key], forwards[key]) for key in keys)
    assert len({item.seed for item in forwards.values()}) == len(keys)
    assert all(0 <= item.seed < 2**63 for item in forwards.values())
    assert {item.short_side for item in forwards.values()} == {40, 48, 56}


@pytest.mark.parametrize("colors", [0.0, 0.4])
@pytest.mark.parametrize("vertical", [False, True])
def test_samples_without_crops_are_those_of_earlier_versions(vertical: bool, colors: float) -> None:
    """Their random choices have one order. A change of it would change every published run."""
    for key in [(epoch, index) for epoch in range(5) for index in range(6)]:
        rng = np.random.default_rng([3, *key])
        mirrored = rng.random() < 0.5
        upside_down = vertical and rng.random() < 0.5
        side = (40, 48, 56)[int(rng.integers(3))]
        expected = replace(EvaluationView(DATASET, GRID, short_side=side)[key[1]], seed=int(rng.integers(2**62)))
        if colors:
            factors = rng.uniform(1 - colors, 1 + colors, size=3).tolist()
            expected = replace(expected, image=recolored(expected.image, *factors))
        expected = flipped(expected) if mirrored else expected
        expected = flipped_vertically(expected) if upside_down else expected
        assert same(view(flip_vertical=vertical, color_jitter=colors)[key], expected)


AUGMENTED: dict[str, dict[str, object]] = {
    "crop": {"crop": 0.4},
    "scale_jitter": {"scale_jitter": (0.5, 2.0), "max_side": 80},
    "mosaic": {"mosaic": 0.5},
    "all": {"crop": 0.5, "mosaic": 0.5, "scale_jitter": (0.5, 2.0), "color_jitter": 0.3, "max_side": 70},
}


@pytest.mark.parametrize("name", AUGMENTED)
def test_an_augmented_sample_depends_only_on_seed_epoch_and_index(name: str) -> None:
    proposals = None if "mosaic" in AUGMENTED[name] else GRID
    options = {"flip": True, "short_sides": (40, 48, 56), "seed": 3, **AUGMENTED[name]}
    keys = [(epoch, index) for epoch in range(4) for index in range(6)]
    first, again = (TrainingView(DATASET, proposals, **options) for _ in range(2))  # type: ignore[arg-type]
    seen = {key: first[key] for key in keys}
    assert all(same(again[key], seen[key]) for key in reversed(keys))
    plain = view()
    assert [plain[key].seed for key in keys] == [seen[key].seed for key in keys], "earlier draws are unchanged"
    changed = sum(not same(plain[key], seen[key]) for key in keys)
    assert changed > len(keys) / 4
    for sample in seen.values():
        assert len(sample.annotation.boxes), "each image has objects"
        assert sample.image.shape[1:] == (sample.annotation.height, sample.annotation.width)
        assert sample.image.untyped_storage().nbytes() == sample.image.nbytes, "no larger image is kept in memory"


def test_a_crop_keeps_objects_and_proposals_together() -> None:
    """Proposals equal to the boxes stay equal to them under every augmentation with proposals."""

    class Objects:
        def boxes(self, index: int) -> torch.Tensor:
            return DATASET.annotations[index].boxes

    made = TrainingView(
        DATASET, Objects(), flip=True, flip_vertical=True, crop=0.4, scale_jitter=(0.5, 2.0), short_sides=(48,), seed=1
    )
    for key in [(epoch, index) for epoch in range(8) for index in range(6)]:
        sample = made[key]
        assert sample.proposals is not None
        assert torch.equal(sample.proposals, sample.annotation.boxes)


def test_a_share_of_the_samples_are_mosaics_of_the_planned_size() -> None:
    options = {"flip": False, "short_sides": (40,), "max_side": 50, "seed": 3}
    made = TrainingView(DATASET, None, mosaic=0.25, **options)  # type: ignore[arg-type]
    samples = [made[epoch, index] for epoch in range(50) for index in range(6)]
    mosaics = [sample for sample in samples if sample.annotation.width != 64]
    assert 0.18 < len(mosaics) / len(samples) < 0.32
    assert {tuple(sample.image.shape) for sample in mosaics} == {(3, 38, 50)}, "48x64 with sides of at most 40 and 50"
    double = TrainingView(DATASET, None, mosaic=1.0, scale_jitter=(2.0, 2.0), **options)  # type: ignore[arg-type]
    sample = double[0, 0]
    assert tuple(sample.image.shape) == (3, 38, 50), "a crop of a mosaic of twice the size"


def test_a_mosaic_with_proposals_is_refused() -> None:
    with pytest.raises(ValueError, match="expected no proposals with a mosaic"):
        view(mosaic=0.5)


def test_half_of_the_samples_are_flipped() -> None:
    plain = view(flip=False)
    keys = [(epoch, index) for epoch in range(50) for index in range(6)]
    share = sum(not torch.equal(view()[key].image, plain[key].image) for key in keys) / len(keys)
    assert 0.4 < share < 0.6, "300 coin flips"
    assert all(torch.equal(plain[key].image, DATASET.image(key[1])) for key in keys[:6])


def test_a_flip_gives_hand_computed_boxes() -> None:
    sample = EvaluationView(DATASET, GRID, short_side=48)[0]
    boxes = torch.tensor([[0.0, 2.0, 10.0, 12.0]])
    sample = replace(sample, annotation=replace(sample.annotation, boxes=boxes), proposals=boxes + 1)
    mirrored = flipped(sample)
    assert mirrored.annotation.boxes.tolist() == [[54, 2, 64, 12]]
    assert mirrored.proposals is not None
    assert mirrored.proposals.tolist() == [[53, 3, 63, 13]]
    assert torch.equal(mirrored.image[:, 2:12, 54:64], sample.image[:, 2:12, 0:10].flip(2))
    twice = flipped(mirrored)
    assert same(twice, sample)
    assert sample.annotation.boxes is boxes, "nothing is changed in place"


def test_a_vertical_flip_gives_hand_computed_boxes() -> None:
    sample = EvaluationView(DATASET, GRID, short_side=48)[0]
    boxes = torch.tensor([[0.0, 2.0, 10.0, 12.0]])
    sample = replace(sample, annotation=replace(sample.annotation, boxes=boxes), proposals=boxes + 1)
    turned = flipped_vertically(sample)
    assert turned.annotation.boxes.tolist() == [[0, 36, 10, 46]]
    assert turned.proposals is not None
    assert turned.proposals.tolist() == [[1, 35, 11, 45]]
    assert torch.equal(turned.image[:, 36:46, 0:10], sample.image[:, 2:12, 0:10].flip(1))
    assert same(flipped_vertically(turned), sample)


def test_a_quarter_of_the_samples_is_flipped_both_ways() -> None:
    keys = [(epoch, index) for epoch in range(50) for index in range(6)]
    both = view(flip_vertical=True)
    kinds = [(None,), (2,), (1,), (1, 2)]
    seen = [
        next(axes for axes in kinds if torch.equal(both[key].image, turn(DATASET.image(key[1]), axes))) for key in keys
    ]
    assert all(0.15 < seen.count(axes) / len(keys) < 0.35 for axes in kinds), "300 flips of two coins"


def turn(image: torch.Tensor, axes: tuple[int | None, ...]) -> torch.Tensor:
    return image if axes == (None,) else image.flip(axes)  # type: ignore[arg-type]


def test_color_jitter_changes_only_the_colors() -> None:
    keys = [(epoch, index) for epoch in range(3) for index in range(6)]
    plain, colored = view(flip=False), view(flip=False, color_jitter=0.4)
    for key in keys:
        one, other = plain[key], colored[key]
        assert not torch.equal(one.image, other.image)
        assert (one.seed, one.short_side) == (other.seed, other.short_side), "the earlier random draws are unchanged"
        assert torch.equal(one.annotation.boxes, other.annotation.boxes)
        assert same(other, view(flip=False, color_jitter=0.4)[key])


def test_colors_equal_hand_computed_values() -> None:
    image = torch.tensor([[[100, 40]], [[50, 40]], [[0, 40]]], dtype=torch.uint8)  # orange, gray
    assert torch.equal(recolored(image, 1.0, 1.0, 1.0), image)
    assert recolored(image, 0.5, 1.0, 1.0)[:, 0, 0].tolist() == [50, 25, 0]
    assert recolored(image, 3.0, 1.0, 1.0)[0, 0, 0] == 255, "no overflow"
    gray = recolored(image, 1.0, 1.0, 0.0)
    assert torch.equal(gray[0], gray[1])
    assert torch.equal(gray[1], gray[2])
    flat = recolored(image, 1.0, 0.0, 1.0)
    assert flat.unique().numel() == 1, "without contrast only one gray is left"


def test_evaluation_does_not_change_the_image() -> None:
    sample = EvaluationView(DATASET, None, short_side=600)[2]
    assert torch.equal(sample.image, DATASET.image(2))
    assert (sample.proposals, sample.short_side, sample.annotation) == (None, 600, DATASET.annotations[2])


def test_an_image_without_objects_can_be_flipped() -> None:
    sample = EvaluationView(DATASET, None, short_side=48)[0]
    empty = replace(sample, annotation=replace(sample.annotation, boxes=torch.zeros(0, 4)))
    assert flipped(empty).annotation.boxes.shape == (0, 4)
