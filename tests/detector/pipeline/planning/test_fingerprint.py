"""The fingerprint of hand-made annotations."""

import pytest
import torch

from detector.datasets.sample import Annotation
from detector.pipeline.planning.fingerprint import take_fingerprint


def image(boxes: list[tuple[float, float, float, float]], labels: list[int], size: tuple[int, int]) -> Annotation:
    width, height = size
    return Annotation(
        image_id=str(boxes),
        width=width,
        height=height,
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.int64),
        difficult=(flags := torch.zeros(len(labels), dtype=torch.bool)),
        truncated=flags,
        occluded=flags,
    )


def test_counts_sizes_and_shapes_are_measured() -> None:
    data = take_fingerprint(
        [
            image([(0, 0, 40, 10), (0, 50, 20, 70)], [1, 2], (200, 100)),  # shorter side 100
            image([(0, 0, 20, 20)], [2], (50, 80)),
        ],
        ("a", "b"),
    )
    assert data.num_images == 2
    assert data.objects == {"a": 1, "b": 2}
    assert data.widths.tolist() == pytest.approx([0.4, 0.2, 0.4])
    assert data.heights.tolist() == pytest.approx([0.1, 0.2, 0.4])
    assert data.thinnest == pytest.approx(10 + 0.02 * (20 - 10))  # between the sides 10 and 20
    assert data.most_objects == 2
    assert data.short_side == 75
    assert data.elongation == pytest.approx(1.6 + 0.95 * (2.0 - 1.6))  # between the two images


def test_an_image_counts_as_at_most_eight_times_as_long_as_wide() -> None:
    data = take_fingerprint([image([(0, 0, 20, 10)], [1], (1600, 10))] * 3, ("a",))
    assert data.elongation == 8
    assert (data.widths[0], data.heights[0]) == pytest.approx((0.1, 0.05))  # of 1600 / 8


def test_a_class_with_few_objects_is_not_the_smallest_class() -> None:
    """One mislabelled small object must not decide the stride of the map."""
    many = [image([(0, 0, 50, 50)] * 5, [1] * 5, (100, 100)) for _ in range(4)]
    small_object = image([(0, 0, 2, 2)], [2], (100, 100))
    data = take_fingerprint([*many, small_object], ("large", "small_object"))
    assert (data.smallest_class, data.smallest_side) == ("large", 0.5)


def test_in_a_small_set_every_class_counts() -> None:
    data = take_fingerprint([image([(0, 0, 10, 10), (0, 0, 50, 50)], [1, 2], (100, 100))], ("small", "large"))
    assert (data.smallest_class, data.smallest_side) == ("small", pytest.approx(0.1))


def test_overlap_counts_only_objects_of_one_class() -> None:
    crowd = image([(0, 0, 20, 10), (0, 0, 20, 20)], [1, 1], (100, 100))
    pairs = image([(0, 0, 20, 10), (0, 0, 20, 20)], [1, 2], (100, 100))
    assert take_fingerprint([crowd], ("a", "b")).overlap == pytest.approx(0.5)
    assert take_fingerprint([pairs], ("a", "b")).overlap == 0.0


def test_images_without_objects_count_as_images() -> None:
    data = take_fingerprint([image([], [], (100, 100)), image([(0, 0, 10, 10)], [1], (100, 100))], ("a",))
    assert (data.num_images, len(data.widths)) == (2, 1)


def test_no_object_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="no object in the 1 training images"):
        take_fingerprint([image([], [], (100, 100))], ("a",))
