"""Deformable convolutions: plain at first, moved by their offsets, learned, and only in a res5 that is a map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from detector.backbones.deformable import DeformableConv2d, deform
from detector.backbones.weights import load_classifier_weights
from detector.build import build_detector
from detector.configs.compose import load_config
from detector.configs.errors import ConfigError
from tests.detector.backbones.test_pyramid import make_batch
from tests.detector.backbones.test_resnet import assert_same, moved_classifier, resnet

RFCN = ["head=rfcn", "head.channels=16", "head.k=3", "proposals=grid", "backbone=resnet18_narrow"]


def deformable(stride: int = 1, dilation: int = 2, dtype: torch.dtype = torch.float64) -> tuple[nn.Conv2d, Any]:
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 6, 3, stride=stride, padding=dilation, dilation=dilation, bias=False, dtype=dtype)
    return plain, DeformableConv2d(plain).to(dtype)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (1, 2), (2, 1)])
def test_without_offsets_it_is_the_plain_convolution(stride: int, dilation: int) -> None:
    plain, found = deformable(stride, dilation)
    x = torch.randn(2, 4, 9, 11, dtype=torch.float64)
    torch.testing.assert_close(found(x), plain(x))
    assert found.weight is plain.weight


@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, 1), (-1, 2)])
def test_an_offset_of_whole_cells_reads_the_shifted_map(down: int, right: int) -> None:
    plain, found = deformable()
    with torch.no_grad():
        found.offset.bias.copy_(torch.tensor([float(down), float(right)]).repeat(9))
    x = torch.randn(1, 4, 9, 11, dtype=torch.float64)
    shifted = F.pad(x, (2 - right, 2 + right, 2 - down, 2 + down))  # left, right, top, bottom
    torch.testing.assert_close(found(x), F.conv2d(shifted, plain.weight, dilation=2))


def test_each_weight_has_its_own_offset() -> None:
    """Weight 5 (middle row, right) moves by half a cell; it then reads the mean of two cells."""
    plain, found = deformable(dilation=1)
    with torch.no_grad():
        plain.weight.zero_()
        plain.weight[:, :, 1, 2] = 1.0
        found.offset.bias[2 * 5] = 0.5  # down
    x = torch.randn(1, 4, 6, 6, dtype=torch.float64)
    total = x.sum(dim=1)
    torch.testing.assert_close(found(x)[0, 0, :5, :5], (total[0, :5, 1:] + total[0, 1:, 1:]) / 2)


def test_the_gradients_of_map_weight_and_offsets_are_right() -> None:
    _, found = deformable(dilation=1)
    nn.init.normal_(found.offset.weight, std=0.1)
    nn.init.constant_(found.offset.bias, 0.3)  # away from whole cells, where the bilinear surface has edges
    x = torch.randn(1, 4, 4, 5, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, *values: Tensor) -> Tensor:
        names = [name for name, _ in found.named_parameters()]
        return torch.func.functional_call(found, dict(zip(names, values, strict=True)), x)  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(run, (x, *found.parameters()))


def test_offsets_are_exact_under_autocast() -> None:
    _, found = deformable(dtype=torch.float32)
    nn.init.constant_(found.offset.bias, 0.375)
    x = torch.randn(1, 4, 9, 11).bfloat16().float()  # the same values in both
    with torch.autocast("cpu", torch.bfloat16):
        low = found(x)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low, found(x).bfloat16())


def test_only_plain_convolutions_are_replaced() -> None:
    stage = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, bias=False))
    deform(stage)
    assert [type(layer) for layer in stage] == [nn.Conv2d, DeformableConv2d]
    with pytest.raises(ValueError, match="without bias and groups"):
        deform(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2, bias=False)))


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("kind", ["dilated_c5", "strided_c5"])
def test_a_classifiers_weights_give_the_plain_maps_before_training(depth: int, kind: str, tmp_path: Path) -> None:
    torch.save(moved_classifier(depth).state_dict(), tmp_path / "resnet.pth")
    found = [resnet(depth=depth, width=1.0, tail=None, **{kind: True}, deformable_c5=on) for on in (False, True)]
    for backbone in found:
        load_classifier_weights(backbone, str(tmp_path / "resnet.pth"), architecture=f"resnet{depth}", sha256=None)
    plain, moving = found
    layers = [path for path, layer in moving.named_modules() if isinstance(layer, DeformableConv2d)]
    assert all(path.startswith("layer4.") for path in layers)
    assert len(layers) == (3 if depth == 50 else 4)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for one, other in zip(moving.bottom_up(images), plain.bottom_up(images), strict=True):
            assert_same(one, other)


def test_a_file_without_a_weight_of_res5_is_still_refused(tmp_path: Path) -> None:
    state = models.resnet18(weights=None).state_dict()
    del state["layer4.0.conv2.weight"]
    torch.save(state, tmp_path / "resnet.pth")
    backbone = resnet(width=1.0, dilated_c5=True, tail=None, deformable_c5=True)
    with pytest.raises(ValueError, match=r"1 missing \(first: layer4.0.conv2.weight\)"):
        load_classifier_weights(backbone, str(tmp_path / "resnet.pth"), architecture="resnet18", sha256=None)


def test_a_step_trains_the_offsets() -> None:
    torch.manual_seed(0)
    detector = build_detector(load_config([*RFCN, "backbone.deformable_c5=true"]), 3).train()
    detector(make_batch()).total().backward()
    offsets = [parameter for name, parameter in detector.named_parameters() if ".offset." in name]
    assert len(offsets) == 8
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in offsets)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["backbone=resnet50"], "no head reads a map of res5; set backbone.dilated_c5=true"),
        (["backbone=resnet50", "head=rfcn", "backbone.dilated_c5=false"], "no head reads a map of res5"),
        (["backbone=resnet50", "head=rfcn", "backbone.frozen_stages=5"], "set at most 4"),
        (["backbone=vgg16"], "deformable_c5"),
    ],
)
def test_a_res5_that_is_no_trained_map_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config([*words, "backbone.deformable_c5=true"])
    with pytest.raises(ValueError, match="a res5 that is a map"):
        resnet(deformable_c5=True)
