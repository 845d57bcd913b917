"""Cross-entropy with label smoothing, focal factor and class weights, against Python floats and hand-worked numbers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from detector.class_losses import class_balanced_weights, class_loss


def loop_loss(
    logits: list[list[float]], labels: list[int], smoothing: float, gamma: float, weights: list[float] | None
) -> list[float]:
    losses = []
    for row, label in zip(logits, labels, strict=True):
        if label < 0:
            losses.append(0.0)
            continue
        largest = max(row)
        log_sum = largest + math.log(sum(math.exp(value - largest) for value in row))
        log_p = [value - log_sum for value in row]
        target = [smoothing / len(row) + (1 - smoothing if column == label else 0.0) for column in range(len(row))]
        entropy = -sum(share * value for share, value in zip(target, log_p, strict=True))
        weight = 1.0 if weights is None else weights[label]
        losses.append(weight * (1 - math.exp(log_p[label])) ** gamma * entropy)
    return losses


def case(rois: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rois, classes + 1, generator=generator, dtype=torch.float64) * 3
    return logits, torch.randint(-1, classes + 1, (rois,), generator=generator)


@given(
    st.integers(0, 20),
    st.integers(1, 10),
    st.sampled_from([0.0, 0.1, 0.5]),
    st.sampled_from([0.0, 0.5, 2.0]),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_losses_equal_a_loop(
    rois: int, classes: int, smoothing: float, gamma: float, weighted: bool, seed: int
) -> None:
    logits, labels = case(rois, classes, seed)
    weights = torch.arange(1.0, classes + 2, dtype=torch.float64) / 3 if weighted else None
    found = class_loss(logits, labels, label_smoothing=smoothing, focal_gamma=gamma, class_weights=weights)
    expected = loop_loss(
        logits.tolist(), labels.tolist(), smoothing, gamma, None if weights is None else weights.tolist()
    )
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-9)


def test_off_is_bit_for_bit_the_cross_entropy() -> None:
    logits, labels = case(40, 5, 0)
    found = class_loss(logits.float(), labels, label_smoothing=0.0, focal_gamma=0.0, class_weights=None)
    assert torch.equal(found, F.cross_entropy(logits.float(), labels, ignore_index=-1, reduction="none"))


def test_hand_worked_numbers() -> None:
    """With equal logits of four classes p is 1/4."""
    logits, labels = torch.zeros(2, 4), torch.tensor([0, 3])
    weights = torch.tensor([1.0, 1.0, 1.0, 2.0])
    plain = math.log(4)
    focal = class_loss(logits, labels, label_smoothing=0.0, focal_gamma=2.0, class_weights=weights)
    torch.testing.assert_close(focal, torch.tensor([plain * 9 / 16, 2 * plain * 9 / 16]))
    # logits (ln 3, 0): p = 3/4 and 1/4. Target with e = 0.2: 0.9 and 0.1.
    smooth = class_loss(
        torch.tensor([[math.log(3), 0.0]]),
        torch.tensor([0]),
        label_smoothing=0.2,
        focal_gamma=0.0,
        class_weights=None,
    )
    torch.testing.assert_close(smooth, torch.tensor([-0.9 * math.log(0.75) - 0.1 * math.log(0.25)]))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradcheck(gamma: float, smoothing: float) -> None:
    logits, labels = case(6, 3, 4)
    weights = torch.tensor([1.0, 0.5, 2.0, 1.5], dtype=torch.float64)

    def loss(value: Tensor) -> Tensor:
        return class_loss(value, labels, label_smoothing=smoothing, focal_gamma=gamma, class_weights=weights)

    assert torch.autograd.gradcheck(loss, (logits.requires_grad_(),))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("size", [0.0, 100.0, 1e30])
def test_certain_and_ignored_rois_have_finite_gradients(gamma: float, size: float) -> None:
    logits = torch.tensor([[size, 0.0], [0.0, size], [size, -size]], requires_grad=True)
    labels = torch.tensor([0, 0, -1])  # right, wrong, ignored
    loss = class_loss(logits, labels, label_smoothing=0.1, focal_gamma=gamma, class_weights=None)
    assert loss.isfinite().all()
    assert loss[2] == 0
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (logits.grad[2] == 0).all()


def test_effective_numbers_by_hand() -> None:
    """With beta 0.5 effective numbers are proportional to 1 - 0.5^n: 1/2, 3/4, 7/8 for 1, 2, 3 objects."""
    raw = [2.0, 4 / 3, 8 / 7]
    mean = sum(raw) / 3
    torch.testing.assert_close(
        class_balanced_weights([1, 2, 3], 0.5), torch.tensor([1.0, *(value / mean for value in raw)])
    )


def test_classes_without_objects_leave_the_other_weights_as_they_are() -> None:
    assert class_balanced_weights([1000, 1000, 0], 0.999).tolist() == [1, 1, 1, 1]
    few = class_balanced_weights([5, 80], 0.99).tolist()
    assert class_balanced_weights([0, 5, 0, 80, 0], 0.99).tolist() == [1, 1, few[1], 1, few[2], 1]
    assert class_balanced_weights([0, 0], 0.99).tolist() == [1, 1, 1]


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=20), st.sampled_from([0.0, 0.9, 0.999, 0.9999]))
def test_rare_classes_weigh_more_and_the_mean_is_1(counts: list[int], beta: float) -> None:
    weights = class_balanced_weights(counts, beta)
    assert weights.dtype == torch.float32
    assert weights[0] == 1
    assert weights[1:].mean().item() == pytest.approx(1.0, rel=1e-5)
    order = sorted(range(len(counts)), key=lambda index: counts[index])
    assert (weights[1:][order].diff() <= 1e-6).all()


def test_the_ends_of_beta() -> None:
    assert class_balanced_weights([3, 700, 0], 0.0).tolist() == [1, 1, 1, 1]
    weights = class_balanced_weights([10, 20, 40], 1 - 1e-9)  # proportional to 1 / n
    torch.testing.assert_close(weights[1:] / weights[3], torch.tensor([4.0, 2.0, 1.0]), rtol=1e-4, atol=0)
