"""Every family of torchvision's classifiers makes a pyramid, with nodes that are found automatically."""

from typing import Any

import pytest
import torch
from torchvision import models

from detector.backbones.nodes import classifier_without_values, nodes_by_stride
from detector.backbones.torchvision import TorchvisionBackbone
from detector.build import build_backbone
from detector.configs.compose import load_config

FAMILIES = ("convnext_tiny", "swin_t", "swin_v2_t", "regnet_y_400mf", "efficientnet_b0", "mobilenet_v3_small")
FIXED_SIZE = ("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14", "maxvit_t")
# Networks without a block of stride 4, and without stride 32.
WITHOUT_MAPS = (
    "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0",
    "squeezenet1_0", "squeezenet1_1",
)  # fmt: skip


@pytest.mark.parametrize("name", ["swin_t", "swin_b", "regnet_y_400mf", "mobilenet_v3_small"])
def test_nodes_of_a_family_are_found(name: str) -> None:
    found = nodes_by_stride(name)
    assert {4, 8, 16, 32} <= set(found)


def test_channels_last_maps_are_returned_channels_first() -> None:
    """Compare Swin's first stage with torchvision's module on a small picture."""
    torch.manual_seed(0)
    backbone = TorchvisionBackbone(
        name="swin_t", node="features.1", proposals_node=None, max_stride=None, norm="frozen_bn", frozen_nodes=None,
        tail=None, tail_channels=0, pooled_size=0,
    ).eval()  # fmt: skip
    assert (backbone.strides, backbone.head_channels) == ((4,), 96)
    images = torch.randn(1, 3, 64, 96)
    classifier = models.swin_t(weights=None).eval()
    own = {backbone.rename(key): value for key, value in classifier.state_dict().items()}
    backbone.load_state_dict({key: value for key, value in own.items() if key is not None}, strict=False)
    with torch.no_grad():
        expected = classifier.features[:2](images).permute(0, 3, 1, 2)
        torch.testing.assert_close(backbone(images).head[0], expected)


@pytest.mark.parametrize("name", ["vit_b_32", "maxvit_t"])
def test_a_network_with_a_fixed_input_size_is_refused_in_one_message(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["backbone=torchvision", f"backbone.name={name}", "head=rfcn"]
    with pytest.raises(ValueError, match=f"^torchvision's {name} takes images of 224 x 224 only and cannot be"):
        build_backbone(load_config(words))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_layer_of_a_family_gets_a_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device, without numbers: a pyramid has its levels, and the backward pass reaches every parameter."""
    monkeypatch.setattr("detector.backbones.torchvision._classifier", classifier_without_values)
    words = ["backbone=torchvision", f"backbone.name={name}", "backbone.norm=bn", "neck=fpn", "head=rfcn"]
    backbone: Any = build_backbone(load_config(words))
    backbone = backbone.to("meta").train()
    levels = backbone(torch.empty(2, 3, 96, 128, device="meta")).head
    assert [tuple(level.shape[2:]) for level in levels] == [(24, 32), (12, 16), (6, 8), (3, 4)]
    torch.stack([level.sum() for level in levels]).sum().backward()
    assert [key for key, value in backbone.named_parameters() if value.grad is None] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in models.list_models(module=models) if name not in FIXED_SIZE])
def test_every_classifier_has_four_strides_or_is_listed_as_without_maps(name: str) -> None:
    found = set(nodes_by_stride(name))
    assert ({4, 8, 16, 32} <= found) == (name not in WITHOUT_MAPS)
