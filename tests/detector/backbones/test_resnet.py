"""ResNets against torchvision's, the dilated res5, and the trained parameters."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from detector.backbones.resnet import DEPTHS, ResNet
from detector.backbones.weights import load_classifier_weights


def resnet(**changes: Any) -> ResNet:
    settings: dict[str, Any] = {
        "depth": 18,
        "norm": "frozen_bn",
        "width": 0.25,
        "frozen_stages": 2,
        "dilated_c5": False,
        "stride_in_1x1": False,
        "tail": "native",
        "tail_channels": 16,
        "pooled_size": 7,
    }
    return ResNet(**(settings | changes))


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Compare to 1e-5 of the map's largest value: untrained residual sums grow, and rounding errors with them."""
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-5 * expected.abs().max().item())


def moved_classifier(depth: int) -> nn.Module:
    """torchvision's ResNet in evaluation, with batch norms that are not the identity."""
    theirs: nn.Module = models.get_model(f"resnet{depth}", weights=None, num_classes=2)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.8, 1.5)  # type: ignore[arg-type]
    return theirs.eval()


def their_c4(theirs: Any, images: torch.Tensor) -> torch.Tensor:
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
    out: torch.Tensor = theirs.layer3(theirs.layer2(theirs.layer1(x)))
    return out


@pytest.mark.parametrize("depth", [18, 50])
def test_c4_and_the_res5_tail_equal_torchvisions(depth: int, tmp_path: Path) -> None:
    theirs: Any = moved_classifier(depth)
    torch.save(theirs.state_dict(), tmp_path / "resnet.pth")
    ours = resnet(depth=depth, width=1.0)
    load_classifier_weights(ours, str(tmp_path / "resnet.pth"), architecture=f"resnet{depth}", sha256=None)
    ours.train()  # with frozen norms the mode makes no difference
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        c4 = their_c4(theirs, images)
        assert_same(ours(images).head[0], c4)
        pooled = torch.rand(2, c4.shape[1], 7, 7)
        assert ours.tail is not None
        expected = theirs.avgpool(theirs.layer4(pooled)).flatten(1)
        assert_same(ours.tail(pooled), expected)


def test_dilated_res5_takes_the_same_weights_and_samples_as_torchvisions_dilation(tmp_path: Path) -> None:
    theirs: Any = models.resnet50(weights=None, num_classes=2, replace_stride_with_dilation=[False, False, True]).eval()
    # torchvision leaves the first block undilated; R-FCN dilates every 3x3 of conv5.
    theirs.layer4[0].conv2.dilation = theirs.layer4[0].conv2.padding = (2, 2)
    torch.save(theirs.state_dict(), tmp_path / "resnet50.pth")
    ours = resnet(depth=50, width=1.0, dilated_c5=True, tail=None)
    load_classifier_weights(ours, str(tmp_path / "resnet50.pth"), architecture="resnet50", sha256=None)
    images = torch.randn(1, 3, 64, 80)
    with torch.no_grad():
        maps = ours(images)
        c4 = their_c4(theirs, images)
        assert_same(maps.proposals[0], c4)
        assert_same(maps.head[0], theirs.layer4(c4))
    assert maps.head[0].shape[2:] == maps.proposals[0].shape[2:] == (4, 5)


def test_a_dilated_block_equals_the_strided_one_at_its_positions() -> None:
    """The a trous trick: stride 2 computed densely. Holds for the first convolutions of res5, whose kernel is 1x1."""
    strided, dilated = resnet(depth=50), resnet(depth=50, dilated_c5=True, tail=None)
    assert strided.tail is not None
    assert dilated.layer4 is not None
    source = strided.tail.get_submodule("0")
    assert source.state_dict().keys() == dilated.layer4.state_dict().keys()
    dilated.layer4.load_state_dict(source.state_dict())
    x = torch.rand(1, strided.head_channels, 9, 11)
    shortcut = dilated.layer4.get_submodule("0.downsample")(x)[:, :, ::2, ::2]
    torch.testing.assert_close(shortcut, source.get_submodule("0.downsample")(x))
    # A 3x3 of dilation 2 on the dense map reads the same values as a 3x3 of dilation 1 on the strided map.
    second = source.get_submodule("1.conv2")
    dense = torch.rand(1, second.in_channels, 9, 11)  # type: ignore[arg-type]
    torch.testing.assert_close(
        dilated.layer4.get_submodule("1.conv2")(dense)[:, :, ::2, ::2], second(dense[:, :, ::2, ::2])
    )


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("dilated", [False, True])
def test_every_depth_builds(depth: int, dilated: bool) -> None:
    with torch.device("meta"):
        backbone = resnet(depth=depth, width=1.0, dilated_c5=dilated, tail=None if dilated else "native")
        maps = backbone(torch.empty(2, 3, 600, 1000))
    assert maps.head[0].shape == (2, backbone.head_channels, 38, 63)  # ceil(side / 16)
    assert maps.proposals[0].shape == (2, backbone.proposal_channels, 38, 63)
    expansion = 4 if depth >= 50 else 1
    assert backbone.head_channels == (512 if dilated else 256) * expansion


@pytest.mark.parametrize("norm", ["frozen_bn", "bn", "gn"])
@pytest.mark.parametrize("frozen_stages", [0, 1, 2, 3])
def test_exactly_the_later_stages_learn(norm: str, frozen_stages: int) -> None:
    backbone = resnet(norm=norm, frozen_stages=frozen_stages).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    backbone(torch.randn(2, 3, 64, 64)).head[0].square().mean().backward()
    stages = ("conv1 bn1", "layer1", "layer2", "layer3", "layer4")
    frozen = tuple(f"{name}." for stage in stages[:frozen_stages] for name in stage.split())
    for name, parameter in backbone.named_parameters():
        expected = not name.startswith((*frozen, "tail."))
        assert (parameter.grad is not None) == expected, name
    for key, value in backbone.state_dict().items():
        fixed = norm != "bn" or key.startswith((*frozen, "tail.")) or "running" not in key
        assert fixed == torch.equal(value, before[key]) or "num_batches" in key, key


def test_stride_in_1x1_moves_the_stride_and_keeps_the_shapes() -> None:
    ours, theirs = resnet(depth=50, stride_in_1x1=True), resnet(depth=50)
    assert ours.get_submodule("layer2.0.conv1").stride == (2, 2)
    assert ours.get_submodule("layer2.0.conv2").stride == (1, 1)
    assert theirs.get_submodule("layer2.0.conv2").stride == (2, 2)
    images = torch.randn(1, 3, 65, 99)
    assert ours(images).head[0].shape == theirs(images).head[0].shape == (1, 256, 5, 7)


def test_channels_last_gives_the_same_maps() -> None:
    backbone = resnet(dilated_c5=True, tail="fc")
    images = torch.randn(2, 3, 64, 96)
    expected = backbone(images).head[0]
    backbone = backbone.to(memory_format=torch.channels_last)
    found = backbone(images.contiguous(memory_format=torch.channels_last)).head[0]
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="use tail=fc or dilated_c5=false"):
        resnet(dilated_c5=True)
    with pytest.raises(ValueError, match="from 18, 34, 50, 101, 152, got 20"):
        resnet(depth=20)
    with pytest.raises(ValueError, match="frozen_stages from 0 to 5"):
        resnet(frozen_stages=-1)
