"""The moving average of the weights, against its definition."""

from typing import Any

import pytest
import torch
from torch import nn

from detector.engine.ema import Average, evaluated_weights


class _Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tail = nn.Linear(2, 2)
        self.head = nn.Sequential(self.tail)  # one layer under two names
        self.norm = nn.BatchNorm2d(2)


def test_the_average_follows_its_recurrence_and_keeps_shared_layers_shared() -> None:
    model: Any = _Parts()
    average = Average(model, decay=0.5)
    expected = model.tail.weight.detach().clone()
    for step in range(1, 5):
        with torch.no_grad():
            model.tail.weight.add_(step)
        model.norm.running_mean.fill_(step)
        average.update(model, step)
        keep = min(0.5, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * model.tail.weight.detach()
    parts: Any = average.detector
    torch.testing.assert_close(parts.tail.weight, expected)
    assert parts.head[0].weight is parts.tail.weight
    assert parts.norm.running_mean[0] == 4
    assert not any(parameter.requires_grad for parameter in parts.parameters())
    assert not parts.training


@pytest.mark.parametrize(
    ("content", "expected"), [({"model": 1}, 1), ({"model": 1, "average": None}, 1), ({"model": 1, "average": 2}, 2)]
)
def test_the_average_is_evaluated(content: dict[str, Any], expected: int) -> None:
    assert evaluated_weights(content) == expected
