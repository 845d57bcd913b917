"""VGG16 against torchvision's, and its trained parameters."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision import models

from detector.backbones.vgg import VGG16
from detector.backbones.weights import load_classifier_weights


def vgg16(**changes: Any) -> VGG16:
    settings: dict[str, Any] = {
        "norm": None,
        "width": 0.125,
        "frozen_stages": 2,
        "tail": "native",
        "tail_channels": 16,
        "dropout": 0.5,
        "pooled_size": 7,
    }
    return VGG16(**(settings | changes))


@pytest.mark.parametrize("architecture", ["vgg16", "vgg16_bn"])
def test_features_and_tail_equal_torchvisions(architecture: str, tmp_path: Path) -> None:
    # The classifier's last layer is not compared: two classes save time.
    theirs = models.get_model(architecture, weights=None, num_classes=2).eval()
    torch.save(theirs.state_dict(), tmp_path / "vgg.pth")
    ours = vgg16(width=1.0, norm="frozen_bn" if architecture == "vgg16_bn" else None)
    load_classifier_weights(ours, str(tmp_path / "vgg.pth"), architecture=architecture, sha256=None)
    ours.eval()
    images, pooled = torch.randn(1, 3, 48, 64), torch.randn(3, 512, 7, 7)
    with torch.no_grad():
        expected = theirs.features[:-1](images)  # without pool5
        torch.testing.assert_close(ours(images).head[0], expected, rtol=1e-5, atol=1e-5)
        hidden = theirs.classifier[:6](pooled.flatten(1))  # C, H, W order; dropout is off
        assert ours.tail is not None
        torch.testing.assert_close(ours.tail(pooled), hidden, rtol=1e-5, atol=1e-5)


def test_maps_have_stride_16_and_odd_sides_are_rounded_down() -> None:
    maps = vgg16()(torch.randn(2, 3, 67, 101))
    assert maps.head[0].shape == (2, 64, 67 // 16, 101 // 16)
    assert maps.proposals[0] is maps.head[0]


@pytest.mark.parametrize(("frozen_stages", "first_trained"), [(0, 0), (1, 5), (2, 10), (5, None)])
def test_exactly_the_later_stages_get_gradients(frozen_stages: int, first_trained: int | None) -> None:
    backbone = vgg16(frozen_stages=frozen_stages, tail=None).train()
    convolutions = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]  # torchvision's indices
    trained = [] if first_trained is None else [index for index in convolutions if index >= first_trained]
    out = backbone(torch.randn(1, 3, 32, 32)).head[0]
    if trained:
        out.sum().backward()
    with_gradient = {name for name, item in backbone.named_parameters() if item.grad is not None}
    assert with_gradient == {f"features.{index}.{kind}" for index in trained for kind in ("weight", "bias")}
    assert out.requires_grad == bool(trained)


def test_only_batch_norms_after_the_frozen_stages_update_their_statistics() -> None:
    backbone = vgg16(norm="bn", frozen_stages=2).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items() if "running" in key}
    backbone(torch.randn(2, 3, 32, 32) + 1.0)
    after = backbone.state_dict()
    moved = {int(key.split(".")[1]) for key, value in before.items() if not torch.equal(value, after[key])}
    assert moved == {15, 18, 21, 25, 28, 31, 35, 38, 41}  # torchvision's indices of vgg16_bn from conv3_1


def test_frozen_stages_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="frozen_stages from 0 to 5"):
        vgg16(frozen_stages=6)


def test_fc_tail_and_no_tail() -> None:
    fc = vgg16(tail="fc")
    assert fc.tail is not None
    assert fc.tail(torch.randn(3, 64, 7, 7)).shape == (3, fc.tail_channels)
    none = vgg16(tail=None)
    assert none.tail is None
    assert none.tail_channels == 0
