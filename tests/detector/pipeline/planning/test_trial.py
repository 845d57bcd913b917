"""The size of a batch relative to the mean of the training sizes."""

import pytest
import torch

from detector.configs.schema import InputConfig
from detector.pipeline.planning.trial import relative_size
from detector.structures import Batch, Instances


def batch(*short_sides: int) -> Batch:
    """Square images of 100 pixels."""
    count = len(short_sides)
    none = Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    images = [torch.zeros(3, 100, 100, dtype=torch.uint8)] * count
    return Batch(images, [none] * count, None, ["x"] * count, list(range(count)), list(short_sides))


def test_the_pixels_are_those_of_the_resized_images() -> None:
    config = InputConfig(short_sides=[100, 300], max_side=1000)  # 10,000 and 90,000 pixels, 50,000 in the mean
    assert relative_size(batch(100, 100), config) == pytest.approx(0.2)
    assert relative_size(batch(100, 300), config) == pytest.approx(1.0)
    assert relative_size(batch(300), config) == pytest.approx(1.8)


def test_the_longest_side_is_limited() -> None:
    config = InputConfig(short_sides=[100, 300], max_side=200)  # 10,000 and 40,000 pixels
    assert relative_size(batch(300), config) == pytest.approx(1.6)
