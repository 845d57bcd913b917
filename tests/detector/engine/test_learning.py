"""Freezing parts of a detector, and finding the backbone modules that only the head uses."""

from typing import Any

import pytest
import torch

from detector.build import build_detector
from detector.configs.compose import load_config
from detector.configs.schema import Config
from detector.engine.learning import modules_of_the_head, train_only
from detector.model import Detector
from detector.structures import Batch, Instances

TINY = [
    "dataset=synthetic",
    "backbone=resnet18_narrow",
    "proposals=rpn",
    "proposals.channels=8",
    "proposals.scales=[1.0,2.0]",
    "proposals.min_size=1.0",
    "input.short_sides=[64]",
    "input.test_short_side=64",
]


def detector_with(head: str) -> Detector:
    torch.manual_seed(0)
    small = {"light_head": ["head.k=3", "head.mid_channels=4"], "rfcn": ["head.k=3", "head.channels=8"]}.get(head, [])
    config: Config = load_config([*TINY, f"head={head}", *small])
    return build_detector(config, 2)


def batch() -> Batch:
    ground_truth = Instances(torch.tensor([[8.0, 8, 40, 40]]), torch.tensor([1]), torch.tensor([False]))
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    return Batch([image], [ground_truth], None, ["a"], [0], [64])


def with_gradient(detector: Detector) -> set[str]:
    detector.zero_grad()
    detector(batch()).total().backward()
    return {name for name, p in detector.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


@pytest.mark.parametrize("head", ["fast_rcnn", "light_head", "rfcn"])
def test_only_named_parts_learn(head: str) -> None:
    cases: list[tuple[list[str], set[str], set[str]]] = [
        (["backbone", "proposals"], {"loss_rpn_cls", "loss_rpn_box"}, {"backbone", "proposals"}),
        (["proposals"], {"loss_rpn_cls", "loss_rpn_box"}, {"proposals"}),
        (["head"], {"loss_cls", "loss_box"}, {"head"}),
    ]
    for names, losses, moved in cases:
        detector = detector_with(head).train()
        train_only(detector, names)
        assert set(detector(batch()).parts) == losses
        found = {
            name.removeprefix("backbone.").split(".")[0] if "tail" in name else name.split(".")[0]
            for name in with_gradient(detector)
        }
        assert found - {"tail"} == moved


@pytest.mark.parametrize(("head", "expected"), [("fast_rcnn", ["tail"]), ("rfcn", ["layer4"])])
def test_backbone_modules_that_only_the_head_uses_are_found(head: str, expected: list[str]) -> None:
    assert modules_of_the_head(detector_with(head).get_submodule("backbone")) == expected


def test_a_name_without_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'haed'; use one of preprocess, backbone"):
        train_only(detector_with("rfcn"), ["haed"])


def test_the_rpn_reads_conv4_and_the_head_conv5() -> None:
    """R-FCN 2: the RPN's losses reach no weight of the dilated res5, but the head's losses do."""
    detector: Any = detector_with("rfcn").train()
    losses = detector(batch()).parts
    (losses["loss_rpn_cls"] + losses["loss_rpn_box"]).backward(retain_graph=True)
    assert all(p.grad is None for p in detector.backbone.layer4.parameters())
    assert all(p.grad is not None for p in detector.proposals.parameters())
    detector.zero_grad()
    # Approximate joint training: no gradient flows from the head to the RPN through the proposal coordinates.
    (losses["loss_cls"] + losses["loss_box"]).backward()
    assert all(p.grad is None for p in detector.proposals.parameters())
    assert any(p.grad is not None for p in detector.backbone.layer4.parameters())
