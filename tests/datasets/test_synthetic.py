"""The synthetic dataset: a function of (seed, split, index), with the properties of a detection dataset."""

from __future__ import annotations

import pytest
import torch

from detector.datasets.synthetic import CLASSES, SyntheticDataset


def make(split: str = "train", num_images: int = 40, seed: int = 0) -> SyntheticDataset:
    return SyntheticDataset(split, num_images=num_images, height=96, width=128, seed=seed)


def test_images_are_functions_of_seed_split_and_index() -> None:
    some, more = make(num_images=3), make(num_images=5)
    for index in range(3):
        assert torch.equal(some.image(index), more.image(index))
        assert torch.equal(some.annotations[index].boxes, more.annotations[index].boxes)
    assert not torch.equal(make(seed=1).image(0), some.image(0))


def test_splits_share_no_image() -> None:
    pictures = [dataset.image(index) for dataset in (make(), make("test")) for index in range(40)]
    assert len({picture.numpy().tobytes() for picture in pictures}) == 80


def test_it_has_the_properties_of_a_detection_dataset() -> None:
    dataset = make(num_images=200)
    assert len(CLASSES) >= 5
    boxes = torch.cat([item.boxes for item in dataset.annotations])
    labels = torch.cat([item.labels for item in dataset.annotations])
    difficult = torch.cat([item.difficult for item in dataset.annotations])
    occluded = torch.cat([item.occluded for item in dataset.annotations])
    short = (boxes[:, 2:] - boxes[:, :2]).amin(1)
    assert set(labels.tolist()) == set(range(1, len(CLASSES) + 1))
    assert all(1 <= len(item.labels) <= 4 for item in dataset.annotations)
    assert 0.01 < difficult.float().mean() < 0.25
    assert 0.02 < occluded.float().mean() < 0.5
    assert 0.02 < (short < 14).float().mean() < 0.35, "some small objects, but few"
    assert (boxes >= 0).all()
    assert (boxes[:, 2] <= 128).all()
    assert (boxes[:, 3] <= 96).all()
    assert dataset.image(0).shape == (3, 96, 128)
    assert dataset.image(0).dtype == torch.uint8
    assert (short[difficult] < 10).logical_or(occluded[difficult]).all(), "difficult objects are tiny or occluded"


@pytest.mark.parametrize(("height", "width"), [(24, 200), (64, 64)])
def test_images_can_have_any_size(height: int, width: int) -> None:
    dataset = SyntheticDataset("train", num_images=20, height=height, width=width, seed=0)
    assert (torch.cat([item.boxes for item in dataset.annotations])[:, 2:] <= torch.tensor([width, height])).all()
    assert dataset.image(0).shape == (3, height, width)
