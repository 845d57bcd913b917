"""Activations without copies: torch's values and gradients, and no second map in memory."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision import models

from detector.backbones.activations import ReLU6, without_copies


class Copies(TorchDispatchMode):
    """Counts the copies of maps."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += func is torch.ops.aten.clone.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_relu6_has_torchs_values_and_gradients(dtype: torch.dtype) -> None:
    x = torch.tensor([-torch.inf, -1.0, -0.0, 0.0, 1e-30, 3.0, 6.0, 6.5, torch.inf, torch.nan], dtype=dtype)
    slopes, values = [], []
    for layer in (ReLU6(), nn.ReLU6()):
        leaf = x.clone().requires_grad_()
        out = layer(leaf * 1)
        (slope,) = torch.autograd.grad(out, leaf, torch.arange(1, 11, dtype=dtype))
        values.append(out.detach())
        slopes.append(slope)
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(slopes[0], slopes[1])


def test_relu6_has_second_derivatives_of_the_gradient() -> None:
    torch.manual_seed(0)
    x = (8 * torch.rand(20, dtype=torch.float64) - 1).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: ReLU6()(x * x), x)


def test_relu6_changes_its_input_and_copies_nothing() -> None:
    layer = ReLU6()
    x = torch.randn(2, 3, 4, 5, requires_grad=True) * 4
    with Copies() as copies:
        out = layer(x)
    assert out.data_ptr() == x.data_ptr()
    assert copies.count == 0
    with torch.no_grad():
        x = x.detach()
        assert layer(x).data_ptr() == x.data_ptr()


def test_relu6_leaves_a_view_alone() -> None:
    base = torch.randn(3, 4, requires_grad=True) * 4
    before = base.detach().clone()
    out = ReLU6()(base.t())
    assert torch.equal(base, before)
    assert torch.equal(out, before.t().clamp(0, 6))


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0"])
def test_a_network_trains_as_before_without_copies(name: str) -> None:
    torch.manual_seed(0)
    network = models.get_model(name, weights=None).features[:5].eval()
    changed = copy.deepcopy(network)
    without_copies(changed)
    assert list(network.state_dict()) == list(changed.state_dict())
    images = torch.randn(1, 3, 64, 64)
    found = []
    for model in (network, changed):
        with Copies() as copies:
            out = model(images)
        out.square().sum().backward()
        found.append((out.detach(), [p.grad for p in model.parameters()], copies.count))
    assert torch.equal(found[0][0], found[1][0])
    for one, two in zip(found[0][1], found[1][1], strict=True):
        assert torch.equal(one, two)  # type: ignore[arg-type]
    assert found[1][2] == 0 < found[0][2]
