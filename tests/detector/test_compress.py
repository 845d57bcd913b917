"""Truncated SVD of a tail and folded norms: equal outputs, or a bounded error."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from detector.backbones.norms import FrozenBatchNorm2d
from detector.backbones.tail import fc_tail
from detector.build import build_backbone
from detector.compress import SVD, factorize, fold_norms
from detector.configs.compose import load_config
from detector.configs.errors import ConfigError


def tail_and_input() -> tuple[nn.Sequential, torch.Tensor]:
    torch.manual_seed(0)
    return fc_tail(3, 2, 8), torch.randn(5, 3, 2, 2)


def test_full_rank_changes_nothing() -> None:
    tail, x = tail_and_input()
    expected = tail(x)
    SVD(tail).truncate(tail, (8, 8))
    torch.testing.assert_close(tail(x), expected)


def test_the_error_equals_the_dropped_singular_values() -> None:
    tail, _ = tail_and_input()
    weight = tail[1].weight.detach().clone()
    SVD(tail).truncate(tail, (3, 0))
    error = tail[1][1].weight @ tail[1][0].weight - weight
    dropped = torch.linalg.svdvals(weight)[3:].square().sum().sqrt()
    torch.testing.assert_close(error.norm(), dropped)
    assert isinstance(tail[3], nn.Linear)
    assert sum(value.numel() for value in tail[1].parameters()) == 3 * 12 + 3 * 8 + 8


@pytest.mark.parametrize(("ranks", "message"), [((4,), "one rank for each"), ((9, 1), "0 .unchanged. to 8 .* got 9")])
def test_ranks_that_do_not_fit_are_refused(ranks: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        factorize(tail_and_input()[0], ranks)


def test_the_config_rebuilds_a_compressed_model() -> None:
    words = ["backbone=resnet18_narrow", "head=fast_rcnn", "backbone.tail=fc", "backbone.tail_channels=16"]
    backbone = build_backbone(load_config([*words, "backbone.tail_ranks=[4,0]"]))
    assert isinstance(backbone, nn.Module)
    assert backbone.state_dict()["tail.1.0.weight"].shape[0] == 4
    with pytest.raises(ConfigError, match="tail_ranks"):
        build_backbone(load_config(["backbone=resnet18_narrow", "head=rfcn", "backbone.tail_ranks=[4,0]"]))


@pytest.mark.parametrize("backbone", ["resnet50", "vgg16_bn", "mobilenet_v2"])
def test_folding_keeps_the_output(backbone: str) -> None:
    torch.manual_seed(0)
    narrow = [] if backbone == "mobilenet_v2" else ["backbone.width=0.125"]
    words = [f"backbone={backbone}", "head=rfcn", "backbone.norm=frozen_bn", *narrow]
    module = build_backbone(load_config(words))
    assert isinstance(module, nn.Module)
    module.eval()
    for norm in module.modules():
        if isinstance(norm, FrozenBatchNorm2d):
            norm.running_var.uniform_(0.5, 2.0)
            norm.running_mean.normal_(std=0.1)
            norm.bias.normal_(std=0.1)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        (expected,) = module(images).head
        fold_norms(module)
        (folded,) = module(images).head
        torch.testing.assert_close(folded, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert not [item for item in module.modules() if isinstance(item, FrozenBatchNorm2d)]
