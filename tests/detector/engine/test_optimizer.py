"""Parameter groups and learning rate schedules."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from detector.build import build_detector, build_optimizer
from detector.configs.compose import load_config
from detector.engine.optimizer import (
    cosine_factor,
    match_layouts,
    parameter_groups,
    start_momentum,
    step_factor,
    warmup,
    without_compiler,
)

SOLVER = {"lr": 1e-3, "weight_decay": 5e-4, "bias_lr_factor": 2.0, "new": ("2",), "lr_factors": {}}
STEPS = {"max_steps": 40000, "milestones": (0.75,), "gamma": 0.1, "warmup_steps": 0, "warmup_factor": 0.1}


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Linear(4, 2))


def test_biases_learn_twice_as_fast_without_decay() -> None:
    groups = {group["name"]: group for group in parameter_groups(network(), **SOLVER, bias_decay=False)}
    assert (groups["weights"]["lr"], groups["weights"]["weight_decay"]) == (1e-3, 5e-4)
    assert (groups["biases"]["lr"], groups["biases"]["weight_decay"]) == (2e-3, 0.0)
    assert (groups["scales"]["lr"], groups["scales"]["weight_decay"]) == (1e-3, 0.0)


def test_biases_of_new_layers_decay_if_set_as_in_rfcn() -> None:
    module = network()
    groups = {group["name"]: group for group in parameter_groups(module, **SOLVER, bias_decay=True)}
    assert (groups["decaying biases"]["lr"], groups["decaying biases"]["weight_decay"]) == (2e-3, 5e-4)
    assert groups["decaying biases"]["params"] == [module[2].bias]
    assert groups["biases"]["weight_decay"] == 0
    assert groups["biases"]["params"] == [module[0].bias, module[1].bias]


def test_the_bias_of_a_norm_never_decays() -> None:
    groups = parameter_groups(network(), **{**SOLVER, "new": ("0", "1", "2")}, bias_decay=True)
    assert {group["name"]: len(group["params"]) for group in groups}["decaying biases"] == 2


def test_modules_can_have_their_own_learning_rates() -> None:
    module = nn.Module()
    module.body, module.head = network(), nn.Linear(4, 2)
    factors = {"body": 0.1, "body.2": 0.5}
    groups = parameter_groups(module, **{**SOLVER, "lr_factors": factors}, bias_decay=False)
    rates = {parameter: group["lr"] for group in groups for parameter in group["params"]}
    expected = {"body.0": 0.1, "body.1": 0.1, "body.2": 0.5, "head": 1.0}
    for name, parameter in module.named_parameters():
        place, _, kind = name.rpartition(".")
        assert rates[parameter] == pytest.approx(1e-3 * expected[place] * (2 if kind == "bias" else 1))


def test_a_module_with_two_names_learns_at_the_rate_of_the_longer_name() -> None:
    module = nn.Module()
    module.backbone, module.head = nn.Module(), nn.Module()
    module.backbone.tail = module.head.tail = nn.Linear(2, 2, bias=False)
    (group,) = parameter_groups(
        module, **{**SOLVER, "lr_factors": {"backbone": 0.1, "head.tail": 3.0}}, bias_decay=False
    )
    assert group["lr"] == pytest.approx(3e-3)


def test_an_unknown_module_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match="optimizer.lr_factors has 'backbone', which has no trained parameters; use one of 0, 1"
    ):
        parameter_groups(network(), **{**SOLVER, "lr_factors": {"backbone": 0.1}}, bias_decay=False)


@pytest.mark.parametrize(
    ("experiment", "decaying"),
    [
        ("fast_rcnn_vgg16_voc07", []),
        ("fast_rcnn_mobilenet_v2_bccd", []),
        ("rfcn_mobilenet_v2_bccd", []),
        (
            "rfcn_resnet50_voc0712_rpn_ohem",
            [
                "head.box_maps",
                "head.reduce",
                "head.score_maps",
                "proposals.conv",
                "proposals.deltas",
                "proposals.scores",
            ],
        ),
        ("rfcn_resnet50_voc0712_ohem", ["head.box_maps", "head.reduce", "head.score_maps"]),
    ],
)
def test_the_biases_of_the_recipe_decay(experiment: str, decaying: list[str]) -> None:
    config = load_config([f"experiment={experiment}", "backbone.weights=null"])
    with torch.device("meta"):
        detector = build_detector(config, 20)
        groups = {group["name"]: group for group in build_optimizer(config, detector).param_groups}
    names = {parameter: name.removesuffix(".bias") for name, parameter in detector.named_parameters()}
    found = groups.get("decaying biases", {"params": []})
    assert sorted(names[parameter] for parameter in found["params"]) == decaying
    assert {group["weight_decay"] for name, group in groups.items() if name in ("biases", "scales")} <= {0.0}
    assert groups["biases" if "biases" in groups else "decaying biases"]["lr"] == 2 * config.optimizer.lr


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
def test_the_published_recipe_lowers_the_rate_at_step_30000_of_40000(step: int, factor: float) -> None:
    assert step_factor(step, **STEPS) == pytest.approx(factor)


def test_milestones_multiply() -> None:
    course = {**STEPS, "max_steps": 100, "milestones": (0.5, 0.75)}
    assert [step_factor(step, **course) for step in (49, 50, 75)] == pytest.approx([1, 0.1, 0.01])


def test_warm_up_is_linear() -> None:
    assert [warmup(step, 10, 0.1) for step in (0, 5, 10, 11)] == pytest.approx([0.1, 0.55, 1, 1])
    assert warmup(0, 0, 0.1) == 1


def test_the_cosine_schedule_ends_at_zero() -> None:
    course = {"max_steps": 110, "warmup_steps": 10, "warmup_factor": 0.1}
    assert [cosine_factor(step, **course) for step in (10, 60, 110, 500)] == pytest.approx([1, 0.5, 0, 0])


@given(st.integers(1, 1000), st.integers(0, 1000))
def test_the_cosine_schedule_never_rises_after_the_warm_up(max_steps: int, warmup_steps: int) -> None:
    factors = [
        cosine_factor(step, max_steps=max_steps, warmup_steps=warmup_steps, warmup_factor=0.1)
        for step in range(warmup_steps, max_steps)
    ]
    assert all(0 <= later <= earlier for earlier, later in itertools.pairwise(factors))


def test_the_optimizer_uses_the_rates_and_decays_of_the_groups() -> None:
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


@pytest.mark.parametrize(
    ("kind", "settings"), [(torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}), (torch.optim.AdamW, {})]
)
def test_an_optimizer_without_the_compiler_computes_the_same(
    kind: type[torch.optim.Optimizer], settings: dict[str, float]
) -> None:
    results = []
    for optimizer_class in (kind, without_compiler(kind)):
        torch.manual_seed(0)
        module = network()[2]
        optimizer = optimizer_class(module.parameters(), **settings)
        for step in range(3):
            optimizer.zero_grad()
            module(torch.full((2, 4), step - 1.0)).square().sum().backward()
            optimizer.step()
            assert all(parameter.requires_grad for parameter in module.parameters())
        results.append((module, optimizer.state_dict()))
    (expected, state), (found, found_state) = results
    assert torch.equal(found.weight, expected.weight)
    assert torch.equal(found.bias, expected.bias)
    torch.testing.assert_close(found_state["state"], state["state"], rtol=0, atol=0)
    assert found_state["param_groups"] == state["param_groups"]
    again = without_compiler(kind)(expected.parameters(), **settings)
    again.load_state_dict(state)
    assert again.state_dict()["param_groups"] == state["param_groups"]


@pytest.mark.parametrize(("kind", "settings"), [(torch.optim.SGD, {"momentum": 0.9}), (torch.optim.AdamW, {})])
def test_a_fused_step_goes_on_from_a_state_in_another_order_of_memory(
    kind: type[torch.optim.Optimizer], settings: dict[str, float]
) -> None:
    torch.manual_seed(0)
    weight, *gradients = torch.randn(3, 4, 5, 3, 3)
    plain = nn.Parameter(weight.clone())
    optimizer = kind([plain], lr=0.1, fused=False, **settings)
    plain.grad = gradients[0]
    optimizer.step()
    fused = nn.Parameter(plain.detach().clone(memory_format=torch.channels_last))
    next_optimizer = kind([fused], lr=0.1, fused=True, **settings)
    saved = copy.deepcopy(optimizer.state_dict())
    next_optimizer.load_state_dict({**saved, "param_groups": next_optimizer.state_dict()["param_groups"]})
    match_layouts(next_optimizer)
    plain.grad, fused.grad = gradients[1], gradients[1].to(memory_format=torch.channels_last)
    optimizer.step()
    next_optimizer.step()
    torch.testing.assert_close(fused.detach(), plain.detach())


def test_a_skipped_first_step_leaves_the_momentum_at_0() -> None:
    """The loss scale of fp16 often skips it. torch's fused step then goes on from memory that nobody wrote."""
    gradient = torch.randn(64, 64)
    results = []
    for fused in (False, True):
        weight = nn.Parameter(torch.zeros(64, 64))
        optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, fused=fused)
        start_momentum(optimizer)
        assert optimizer.state[weight]["momentum_buffer"].count_nonzero() == 0
        scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
        for each in (torch.full_like(gradient, math.inf), gradient, gradient):
            scaler.scale(torch.zeros(()))  # starts the scale
            weight.grad = each * scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
        results.append(weight.detach())
    torch.testing.assert_close(results[0], -0.1 * 2.9 * gradient)
    torch.testing.assert_close(results[1], results[0])
