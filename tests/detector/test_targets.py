"""Labels by overlap, normalised targets, and their statistics against a float64 loop."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detector.ops import boxes as box_ops
from detector.structures import Instances, Proposals
from detector.targets import BoxCoder, Matcher, measure_statistics

PAPER = Matcher(
    foreground_iou=0.5, background_iou_low=0.1, background_iou_high=0.5, append_truths=True, use_difficult=True
)


def proposals(*boxes: list[float]) -> Proposals:
    return Proposals(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.zeros(len(boxes)))


def truths(*boxes: list[float], labels: list[int] | None = None, difficult: list[bool] | None = None) -> Instances:
    labels = list(range(1, len(boxes) + 1)) if labels is None else labels
    difficult = [False] * len(boxes) if difficult is None else difficult
    return Instances(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(difficult, dtype=torch.bool),
    )


def strip(overlap: float) -> list[float]:
    """Return a box inside (0, 0, 100, 10) whose IoU with it is `overlap`."""
    return [0, 0, 100 * overlap, 10]


def test_labels_follow_the_published_thresholds() -> None:
    given_boxes = proposals(strip(0.5), strip(0.49), strip(0.1), strip(0.09), [500, 500, 600, 600])
    matcher = replace(PAPER, append_truths=False)
    candidates = matcher(given_boxes, truths([0, 0, 100, 10], labels=[7]))
    assert candidates.labels.tolist() == [7, 0, 0, -1, -1]


def test_with_a_lower_threshold_of_0_every_low_overlap_is_background() -> None:
    matcher = replace(PAPER, append_truths=False, background_iou_low=0.0)
    candidates = matcher(proposals(strip(0.5), strip(0.09), [500, 500, 600, 600]), truths([0, 0, 100, 10], labels=[7]))
    assert candidates.labels.tolist() == [7, 0, 0]


def test_overlaps_between_background_and_foreground_are_ignored() -> None:
    matcher = replace(PAPER, append_truths=False, background_iou_high=0.3)
    labels = matcher(proposals(strip(0.4), strip(0.29)), truths([0, 0, 100, 10])).labels
    assert labels.tolist() == [-1, 0]


def test_the_label_comes_from_the_object_with_the_largest_overlap() -> None:
    first, second = [0.0, 0, 100, 10], [40.0, 0, 140, 10]
    candidates = PAPER(proposals([30, 0, 130, 10], [10, 0, 110, 10]), truths(first, second, labels=[3, 5]))
    assert candidates.labels.tolist() == [5, 3, 3, 5]  # two proposals, then the two objects
    assert candidates.gt_boxes.tolist() == [second, first, first, second]


def test_ground_truth_boxes_are_appended_only_if_set() -> None:
    boxes, objects = proposals([0, 0, 5, 5]), truths([20, 20, 40, 40])
    assert len(PAPER(boxes, objects).boxes) == 2
    assert PAPER(boxes, objects).labels.tolist() == [-1, 1]
    assert len(replace(PAPER, append_truths=False)(boxes, objects).boxes) == 1


def test_difficult_objects_are_used_only_if_use_difficult_is_set() -> None:
    boxes = proposals([0, 0, 100, 10])
    objects = truths([0, 0, 100, 10], [50, 50, 90, 90], difficult=[True, False])
    assert PAPER(boxes, objects).labels.tolist() == [1, 1, 2]
    without = replace(PAPER, use_difficult=False)(boxes, objects)
    assert without.labels.tolist() == [-1, 2]  # the only overlap was with a difficult object


@pytest.mark.parametrize("low", [0.0, 0.1])
def test_an_image_without_objects_has_background_only_if_zero_overlap_is_background(low: float) -> None:
    candidates = replace(PAPER, background_iou_low=low)(proposals([0, 0, 5, 5], [1, 1, 9, 9]), truths())
    assert candidates.labels.tolist() == [0 if low == 0 else -1] * 2
    assert torch.equal(candidates.gt_boxes, candidates.boxes)


@pytest.mark.parametrize("objects", [truths(), truths([3, 3, 9, 9])])
def test_an_image_without_proposals_has_only_its_objects(objects: Instances) -> None:
    candidates = PAPER(proposals(), objects)
    assert candidates.labels.tolist() == objects.labels.tolist()
    assert candidates.boxes.shape == candidates.gt_boxes.shape == (len(objects), 4)


def random_boxes(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * 200
    return torch.cat((low, low + 10 + 100 * torch.rand(count, 2, generator=generator)), dim=1)


@given(st.integers(0, 1000), st.booleans())
def test_encoding_and_decoding_restore_the_box(seed: int, class_agnostic: bool) -> None:
    boxes, target = random_boxes(8, seed), random_boxes(8, seed + 5000)
    coder = BoxCoder(rows=1 if class_agnostic else 3, mean=(0.1, -0.2, 0.3, 0.0), std=(0.1, 0.2, 0.3, 0.4))
    labels = torch.tensor([1, 2, 3, 1, 2, 3, 1, 2])
    deltas = coder.encode(boxes, target, labels)
    torch.testing.assert_close(coder.decode(deltas, boxes, labels), target, rtol=1e-4, atol=1e-2)


def test_each_class_has_its_own_statistics() -> None:
    coder = BoxCoder(rows=2, mean=(0.0, 0, 0, 0), std=(1.0, 1, 1, 1))
    coder.mean[1], coder.std[1] = torch.tensor([1.0, 0, 0, 0]), torch.tensor([0.5, 1, 1, 1])
    boxes, target = torch.tensor([[0.0, 0, 10, 10]]).repeat(3, 1), torch.tensor([[10.0, 0, 20, 10]]).repeat(3, 1)
    deltas = coder.encode(boxes, target, torch.tensor([1, 2, 0]))
    assert deltas.tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_targets_of_padding_are_zero() -> None:
    coder = BoxCoder(rows=2, mean=(0.1, 0.1, 0.1, 0.1), std=(0.1, 0.1, 0.2, 0.2))
    nothing = torch.zeros(2, 4)
    assert torch.equal(coder.encode(nothing, nothing, torch.tensor([-1, 0])), nothing)


def loop_statistics(
    images: list[tuple[Proposals, Instances]], rows: int, flip: bool, flip_vertical: bool
) -> tuple[list[list[float]], list[list[float]]]:
    """Return mean and population deviation of the deltas of every foreground RoI, computed in Python floats."""
    deltas: dict[int, list[list[float]]] = {row: [] for row in range(rows)}
    for item, objects in images:
        for box in torch.cat((item.boxes, objects.boxes)).double().tolist():
            overlaps = [float(box_ops.iou(torch.tensor([box]), truth[None].double())) for truth in objects.boxes]
            if not overlaps or max(overlaps) < 0.5:
                continue
            match = int(np.argmax(overlaps))
            x1, y1, x2, y2 = objects.boxes[match].double().tolist()
            w, h = box[2] - box[0], box[3] - box[1]
            delta = [
                ((x1 + x2) - (box[0] + box[2])) / 2 / w,
                ((y1 + y2) - (box[1] + box[3])) / 2 / h,
                math.log((x2 - x1) / w),
                math.log((y2 - y1) / h),
            ]
            row = min(int(objects.labels[match]) - 1, rows - 1)
            for x in (1, -1) if flip else (1,):
                for y in (1, -1) if flip_vertical else (1,):
                    deltas[row].append([x * delta[0], y * delta[1], *delta[2:]])
    mean = [np.mean(deltas[row], axis=0).tolist() for row in range(rows)]
    std = [np.std(deltas[row], axis=0).tolist() for row in range(rows)]
    return mean, std


@pytest.mark.parametrize("flip_vertical", [False, True])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rows", [1, 2])
def test_statistics_equal_a_loop(rows: int, flip: bool, flip_vertical: bool) -> None:
    images = []
    for seed in range(6):
        objects = random_boxes(3, seed)
        jitter = torch.randn(40, 4, generator=torch.Generator().manual_seed(seed)) * 4
        item = Proposals(objects.repeat(14, 1)[:40] + jitter, torch.zeros(40))
        images.append((item, Instances(objects, torch.tensor([1, 2, 1]), torch.zeros(3, dtype=torch.bool))))
    mean, std = measure_statistics(images, PAPER, rows=rows, flip=flip, flip_vertical=flip_vertical)
    expected_mean, expected_std = loop_statistics(images, rows, flip, flip_vertical)
    torch.testing.assert_close(mean, torch.tensor(expected_mean), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(std, torch.tensor(expected_std), rtol=1e-4, atol=1e-5)
    if flip:
        assert mean[:, 0].abs().max() < 1e-6  # mirrored copies cancel
    if flip_vertical:
        assert mean[:, 1].abs().max() < 1e-6


def test_a_class_without_examples_keeps_a_standard_deviation_of_1() -> None:
    mean, std = measure_statistics([(proposals([0, 0, 9, 9]), truths([0, 0, 9, 9]))], PAPER, rows=3, flip=False)
    assert torch.isfinite(mean).all()
    assert torch.equal(std, torch.ones(3, 4))  # class 1 has only perfect boxes, 2 and 3 have none


def test_normalised_targets_have_zero_mean_and_unit_deviation() -> None:
    objects = random_boxes(4, 1)
    noise = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)) * 3
    item = Proposals(objects.repeat(50, 1) + noise, torch.zeros(200))
    labelled = Instances(objects, torch.tensor([1, 2, 1, 2]), torch.zeros(4, dtype=torch.bool))
    coder = BoxCoder(rows=2, mean=(0.0, 0, 0, 0), std=(1.0, 1, 1, 1))
    mean, std = measure_statistics([(item, labelled)], PAPER, rows=2, flip=False)
    coder.mean.copy_(mean)
    coder.std.copy_(std)
    candidates = PAPER(item, labelled)
    deltas = coder.encode(candidates.boxes, candidates.gt_boxes, candidates.labels)
    for label in (1, 2):
        of_class = deltas[candidates.labels == label]
        torch.testing.assert_close(of_class.mean(dim=0), torch.zeros(4), rtol=0, atol=1e-4)
        torch.testing.assert_close(of_class.std(dim=0, correction=0), torch.ones(4), rtol=1e-3, atol=0)


def test_target_statistics_are_in_the_state_dict() -> None:
    assert set(BoxCoder(rows=2, mean=(0.0, 0, 0, 0), std=(1.0, 1, 1, 1)).state_dict()) == {"mean", "std"}
