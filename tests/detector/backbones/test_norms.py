"""Frozen batch norm against PyTorch's in evaluation mode, and its folding into the preceding convolution."""

import pytest
import torch
from torch import nn

from detector.backbones.norms import FrozenBatchNorm2d, conv_norm, make_norm, with_frozen_norms


def moved_batch_norm(channels: int) -> nn.BatchNorm2d:
    """A batch norm whose statistics and affine map are not the identity."""
    norm = nn.BatchNorm2d(channels, eps=1e-3)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2.0)
        norm.bias.uniform_(-1.0, 1.0)
        norm.running_mean.uniform_(-1.0, 1.0)  # type: ignore[union-attr]
        norm.running_var.uniform_(0.1, 3.0)  # type: ignore[union-attr]
    return norm


def test_frozen_batch_norm_equals_batch_norm_in_evaluation_and_never_changes() -> None:
    norm = moved_batch_norm(6).eval()
    frozen = with_frozen_norms(norm).train()
    before = {key: value.clone() for key, value in frozen.state_dict().items()}
    x = torch.randn(2, 6, 5, 7)
    torch.testing.assert_close(frozen(x), norm(x))
    assert not list(frozen.parameters())
    assert all(torch.equal(value, before[key]) for key, value in frozen.state_dict().items())


def test_frozen_norms_replace_every_batch_norm_below() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(moved_batch_norm(4), nn.ReLU()))
    frozen = with_frozen_norms(module)
    assert not any(isinstance(item, nn.BatchNorm2d) for item in frozen.modules())
    assert sum(isinstance(item, FrozenBatchNorm2d) for item in frozen.modules()) == 1


@pytest.mark.parametrize("bias", [False, True])
def test_folding_keeps_values_and_gradients(bias: bool) -> None:
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=bias)
    frozen = with_frozen_norms(moved_batch_norm(6))
    x = torch.randn(2, 4, 9, 8, requires_grad=True)
    inputs = [x, *conv.parameters()]
    folded, apart = conv_norm(x, conv, frozen), frozen(conv(x))
    torch.testing.assert_close(folded, apart, rtol=1e-5, atol=1e-5)
    weight = torch.randn_like(apart)
    for one, other in zip(
        torch.autograd.grad(folded, inputs, weight), torch.autograd.grad(apart, inputs, weight), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (64, 32), (32, 16), (24, 8), (8, 4), (19, 1)])
def test_group_norm_never_has_groups_of_one_channel(channels: int, groups: int) -> None:
    norm = make_norm("gn", channels)
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_groups == groups


def test_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="frozen_bn, bn, gn, got 'ln'"):
        make_norm("ln", 8)
