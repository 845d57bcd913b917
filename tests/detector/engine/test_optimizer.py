"""Parameter groups and the learning rate's course."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from detector.engine.optimizer import cosine_factor, parameter_groups, step_factor, warmup

SOLVER = {"lr": 1e-3, "weight_decay": 5e-4, "bias_lr_factor": 2.0}
STEPS = {"max_steps": 40000, "milestones": (0.75,), "gamma": 0.1, "warmup_steps": 0, "warmup_factor": 0.1}


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Linear(4, 2))


def test_biases_learn_twice_as_fast_without_decay() -> None:
    groups = {group["name"]: group for group in parameter_groups(network(), **SOLVER, bias_decay=False)}
    assert (groups["weights"]["lr"], groups["weights"]["weight_decay"]) == (1e-3, 5e-4)
    assert (groups["biases"]["lr"], groups["biases"]["weight_decay"]) == (2e-3, 0.0)
    assert (groups["scales"]["lr"], groups["scales"]["weight_decay"]) == (1e-3, 0.0)


def test_biases_decay_where_asked_as_in_rfcn() -> None:
    groups = {group["name"]: group for group in parameter_groups(network(), **SOLVER, bias_decay=True)}
    assert groups["biases"]["weight_decay"] == 5e-4


def test_every_trained_parameter_is_in_exactly_one_group() -> None:
    module = network()
    module[0].requires_grad_(False)
    groups = parameter_groups(module, **SOLVER, bias_decay=False)
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(found) == sorted(id(parameter) for parameter in module.parameters() if parameter.requires_grad)
    sizes = {group["name"]: len(group["params"]) for group in groups}
    assert sizes == {"weights": 1, "biases": 2, "scales": 1}


def test_a_group_without_parameters_is_left_out() -> None:
    groups = parameter_groups(nn.Linear(2, 2, bias=False), **SOLVER, bias_decay=False)
    assert [group["name"] for group in groups] == ["weights"]


@pytest.mark.parametrize(("step", "factor"), [(0, 1), (29_999, 1), (30_000, 0.1), (39_999, 0.1)])
def test_the_published_step_is_at_30000_of_40000(step: int, factor: float) -> None:
    assert step_factor(step, **STEPS) == pytest.approx(factor)


def test_milestones_multiply() -> None:
    course = {**STEPS, "max_steps": 100, "milestones": (0.5, 0.75)}
    assert [step_factor(step, **course) for step in (49, 50, 75)] == pytest.approx([1, 0.1, 0.01])


def test_warm_up_is_linear() -> None:
    assert [warmup(step, 10, 0.1) for step in (0, 5, 10, 11)] == pytest.approx([0.1, 0.55, 1, 1])
    assert warmup(0, 0, 0.1) == 1


def test_half_a_cosine_ends_at_zero() -> None:
    course = {"max_steps": 110, "warmup_steps": 10, "warmup_factor": 0.1}
    assert [cosine_factor(step, **course) for step in (10, 60, 110, 500)] == pytest.approx([1, 0.5, 0, 0])


@given(st.integers(1, 1000), st.integers(0, 1000))
def test_a_cosine_never_rises_after_the_warm_up(max_steps: int, warmup_steps: int) -> None:
    factors = [
        cosine_factor(step, max_steps=max_steps, warmup_steps=warmup_steps, warmup_factor=0.1)
        for step in range(warmup_steps, max_steps)
    ]
    assert all(0 <= later <= earlier for earlier, later in itertools.pairwise(factors))


def test_the_optimizer_steps_as_the_groups_say() -> None:
    """One step of SGD on a gradient of ones: weight - lr (1 + decay weight), bias - 2 lr."""
    module = nn.Linear(1, 1)
    nn.init.ones_(module.weight)
    nn.init.ones_(module.bias)
    optimizer = torch.optim.SGD(parameter_groups(module, **SOLVER, bias_decay=False), lr=1e-3, momentum=0.9)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert module.weight.item() == pytest.approx(1 - 1e-3 * (1 + 5e-4), abs=1e-7)
    assert module.bias.item() == pytest.approx(1 - 2e-3, abs=1e-7)
