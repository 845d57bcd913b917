"""Torchvision's classifiers, cut at a node: the features are equal to theirs, and mistakes are named."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from detector.backbones.norms import FrozenBatchNorm2d
from detector.backbones.torchvision import TorchvisionBackbone
from detector.backbones.weights import load_classifier_weights

ROOT = Path(__file__).parents[3]
WEIGHTS = next(
    (
        folder / "shared/data/weights"
        for folder in (ROOT.parent, ROOT.parent.parent)
        if (folder / "shared/data/weights").is_dir()
    ),
    None,
)


def backbone(**changes: Any) -> TorchvisionBackbone:
    settings: dict[str, Any] = {
        "name": "mobilenet_v2",
        "node": "features.13",
        "proposals_node": None,
        "max_stride": None,
        "norm": "frozen_bn",
        "frozen_nodes": "features.3",
        "tail": "fc",
        "tail_channels": 16,
        "pooled_size": 7,
    }
    return TorchvisionBackbone(**(settings | changes))


@pytest.mark.parametrize(
    ("name", "node", "stride", "channels"),
    [
        ("mobilenet_v2", "features.13", 16, 96),
        ("mobilenet_v2", "features.18", 32, 1280),
        ("squeezenet1_1", "features.12", 16, 512),  # convolves without padding
        ("resnet18", "layer3", 16, 256),
        ("regnet_y_400mf", "trunk_output.block3", 16, 208),
        ("efficientnet_b0", "features.5", 16, 112),
    ],
)
def test_stride_and_channels_are_found(name: str, node: str, stride: int, channels: int) -> None:
    found = backbone(name=name, node=node, frozen_nodes=None)
    assert (found.strides, found.head_channels, found.proposal_channels) == ((stride,), channels, channels)
    maps = found(torch.randn(2, 3, 97, 131))
    assert maps.head[0].shape[:2] == (2, channels)
    assert maps.proposals[0] is maps.head[0]


def test_two_nodes_of_one_stride() -> None:
    found = backbone(node="features.13", proposals_node="features.10")
    maps = found(torch.randn(1, 3, 64, 64))
    assert (found.head_channels, found.proposal_channels) == (96, 64)
    assert (maps.head[0].shape[1], maps.proposals[0].shape[1]) == (96, 64)
    with pytest.raises(ValueError, match=r"one stride, got 16 \(head\) and 8 \(proposals\)"):
        backbone(proposals_node="features.6")


def test_max_stride_dilates_deep_maps() -> None:
    found = backbone(node="features.17", proposals_node="features.13", max_stride=16)
    assert (found.strides, found.head_channels, found.proposal_channels) == ((16,), 320, 96)
    maps = found(torch.randn(1, 3, 64, 96))
    assert maps.head[0].shape == (1, 320, 4, 6)
    assert maps.proposals[0].shape == (1, 96, 4, 6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "mobilenet_v22"}, "no classifier 'mobilenet_v22'; nearest: mobilenet_v2"),
        ({"node": "feature.13"}, "no node 'feature.13'; nearest: features.13"),
        ({"deeper_nodes": ["features.18", "features.18"]}, "backbone.deeper_nodes have features.18 twice"),
        ({"deeper_nodes": ["features.13"]}, "backbone.node and backbone.deeper_nodes have features.13 twice"),
        ({"proposals_node": "layer9"}, "mobilenet_v2 has no node 'layer9'"),
        ({"frozen_nodes": "features.15"}, "used part of mobilenet_v2 has no module 'features.15'; nearest: features."),
        ({"node": "classifier.1", "frozen_nodes": None}, r"maps \[N, C, H, W\] that grow with the image"),
        ({"max_stride": 12}, "max_stride=12 of mobilenet_v2: expected a largest stride that is a power of two"),
        (
            {"name": "squeezenet1_1", "node": "features.12", "frozen_nodes": None, "max_stride": 4},
            "a stride of at most 4 at features.12 of squeezenet1_1, got 16",
        ),
        ({"tail": "native"}, "use tail=fc"),
        ({"name": "vit_b_32", "node": "encoder"}, "^torchvision's vit_b_32 takes images of 224 x 224 only and cannot"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        backbone(**changes)


def test_a_node_without_a_map_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected the head node of mobilenet_v2 to give maps \[N, C, H, W\]"):
        backbone(name="mobilenet_v2", node="classifier.1", frozen_nodes=None)


@pytest.mark.parametrize("norm", ["frozen_bn", "bn", "gn"])
def test_exactly_the_nodes_after_the_frozen_one_learn(norm: str) -> None:
    found = backbone(norm=norm, tail=None).train()
    before = {key: value.clone() for key, value in found.state_dict().items()}
    found(torch.randn(2, 3, 64, 64)).head[0].square().mean().backward()

    def is_frozen(name: str) -> bool:
        return int(name.split(".")[2]) <= 3

    for name, parameter in found.named_parameters():
        assert (parameter.grad is None) == is_frozen(name), name
    moved = {key for key, value in found.state_dict().items() if not torch.equal(value, before[key])}
    assert bool(moved) == (norm == "bn")
    assert not any(is_frozen(key) for key in moved)


def test_freezing_a_block_freezes_its_own_parameters_and_its_stochastic_depth() -> None:
    found = backbone(name="convnext_tiny", node="features.3", frozen_nodes="features.1", tail=None).train()
    scales = {name: item.requires_grad for name, item in found.named_parameters() if name.endswith("layer_scale")}
    assert scales
    assert all(trained == (".features.3." in name) for name, trained in scales.items())
    inactive = {
        name.split(".")[2] for name, item in found.named_modules() if "stochastic" in name and not item.training
    }
    assert inactive == {"1"}
    found.eval()
    found.train()
    assert not found.body.get_submodule("features.1.0.stochastic_depth").training


def test_classifiers_weights_give_the_classifiers_features(tmp_path: Path) -> None:
    theirs = models.mobilenet_v2(weights=None)
    theirs(torch.randn(4, 3, 64, 64))  # changes the running statistics
    theirs.eval()
    torch.save(
        {key: value.half() if value.is_floating_point() else value for key, value in theirs.state_dict().items()},
        tmp_path / "half.pth",
    )
    ours = backbone()
    load_classifier_weights(ours, str(tmp_path / "half.pth"), architecture="mobilenet_v2", sha256=None)
    theirs.load_state_dict(torch.load(tmp_path / "half.pth", weights_only=True))
    images = torch.randn(1, 3, 75, 93)
    with torch.no_grad():
        torch.testing.assert_close(ours.train()(images).head[0], theirs.features[:14](images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("file", "name", "node"),
    [
        ("mobilenet_v2_coral_qat_tv.pth", "mobilenet_v2", "features.18"),
        ("squeezenet1_1_openvino_fp16_tv.pth", "squeezenet1_1", "features.12"),
    ],
)
def test_published_weights_give_torchvisions_features(file: str, name: str, node: str) -> None:
    if WEIGHTS is None:
        pytest.skip("no shared/data/weights beside the repository")
    theirs = models.get_model(name, weights=None).eval()
    state = torch.load(WEIGHTS / file, weights_only=True)
    theirs.load_state_dict(state, strict=False)
    ours = backbone(name=name, node=node, frozen_nodes=None)
    load_classifier_weights(ours, str(WEIGHTS / file), architecture=name, sha256=None)
    images = torch.randn(1, 3, 120, 160)
    with torch.no_grad():
        expected = theirs.features[: int(node.split(".")[1]) + 1](images)
        # Our norms are folded into the convolutions, so features of up to 60 are rounded differently.
        torch.testing.assert_close(ours.train()(images).head[0], expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "efficientnet_b0"])
@pytest.mark.parametrize("training", [True, False])
def test_frozen_norms_are_folded_into_their_convolutions(name: str, training: bool) -> None:
    node = {"mobilenet_v2": "features.13", "resnet18": "layer3", "efficientnet_b0": "features.5"}[name]
    found = backbone(name=name, node=node, frozen_nodes=None).train(training)
    called: list[nn.Module] = []
    for module in found.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.register_forward_hook(lambda module, *rest: called.append(module))
    copied = copy.deepcopy(found)
    for part in (found, copied):
        maps = part(torch.randn(1, 3, 64, 96)).head[0]
        maps.square().mean().backward()
        assert called == []
        assert all(weight.grad is not None for weight in part.body.parameters())


def test_channels_last_gives_the_same_maps() -> None:
    found = backbone()
    images = torch.randn(2, 3, 64, 96)
    expected = found(images).head[0]
    found = found.to(memory_format=torch.channels_last)
    again = found(images.contiguous(memory_format=torch.channels_last)).head[0]
    assert again.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(again, expected, rtol=1e-4, atol=1e-4)
