"""The pyramid against torchvision's, for each family of backbones, and a training step of a detector with it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import resnet18
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from detector.backbones.pyramid import Pyramid
from detector.backbones.top_down import FPN
from detector.backbones.weights import load_classifier_weights
from detector.build import build_detector
from detector.configs.compose import load_config
from detector.model import Detector
from detector.structures import Batch, Instances, Proposals

BODIES = {
    "resnet": ["backbone=resnet18_narrow"],
    "vgg": [
        "backbone=vgg16_bn", "backbone.weights=null", "backbone.norm=gn", "backbone.width=0.125",
        "backbone.frozen_stages=0", "backbone.tail=fc",
    ],
    "torchvision": ["backbone=mobilenet_v2", "backbone.weights=null", "backbone.norm=bn"],
}  # fmt: skip
HEADS = {
    "fast_rcnn": ["head=fast_rcnn_align"],
    "light_head": ["head=light_head", "head.k=3", "head.mid_channels=8", "head.fc_channels=32"],
    "rfcn": ["head=rfcn", "head.channels=16", "head.k=3"],
}
SOURCES = {"rpn": ["proposals=rpn_fpn", "proposals.channels=16"], "given": ["proposals=grid"]}


def make_detector(body: str, head: str = "fast_rcnn", source: str = "rpn") -> Detector:
    torch.manual_seed(0)
    words = [*BODIES[body], *HEADS[head], *SOURCES[source], "neck=fpn", "neck.channels=16", "backbone.tail_channels=32"]
    return build_detector(load_config(words), 3)


def make_batch(images: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[10.0, 10, 60, 70], [70, 20, 100, 90], [0, 0, 127, 95], [5, 5, 20, 20]])
    ground_truth = Instances(boxes[:2], torch.tensor([1, 2]), torch.zeros(2, dtype=torch.bool))
    return Batch(
        [torch.randint(0, 256, (3, 96, 128), generator=generator, dtype=torch.uint8) for _ in range(images)],
        [ground_truth] * images, [Proposals(boxes, torch.zeros(4))] * images, ["a"] * images, [*range(images)],
        [96] * images,
    )  # fmt: skip


def test_levels_equal_those_of_torchvision() -> None:
    theirs = FeaturePyramidNetwork([4, 6, 8], 5, LastLevelMaxPool())
    ours = FPN([4, 6, 8], 5, 4)
    names = {"inner_blocks": "lateral", "layer_blocks": "smooth"}
    for key, value in theirs.state_dict().items():
        part, level, _, kind = key.split(".")
        ours.state_dict()[f"{names[part]}.{level}.{kind}"].copy_(value)
    maps = [torch.randn(2, channels, *size) for channels, size in ((4, (13, 19)), (6, (7, 10)), (8, (4, 5)))]
    expected = theirs({str(index): level for index, level in enumerate(maps)})
    for one, other in zip(ours(maps), expected.values(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("body", BODIES)
def test_a_pyramid_has_p2_to_p6_of_one_width(body: str) -> None:
    backbone: Any = make_detector(body, source="given").backbone
    maps = backbone(torch.zeros(1, 3, 128, 192))
    assert (backbone.strides, backbone.proposal_strides) == ((4, 8, 16, 32), (4, 8, 16, 32, 64))
    assert [item.shape for item in maps.proposals] == [(1, 16, 128 // s, 192 // s) for s in backbone.proposal_strides]
    assert all(one is other for one, other in zip(maps.proposals, maps.head, strict=False))
    assert len(maps.head) == 4


@pytest.mark.parametrize(
    ("body", "head", "source"),
    [
        ("resnet", "fast_rcnn", "rpn"),
        ("resnet", "light_head", "rpn"),
        ("resnet", "rfcn", "rpn"),
        ("vgg", "rfcn", "given"),
        ("torchvision", "fast_rcnn", "given"),
    ],
)
def test_a_step_reaches_every_weight_and_detection_runs(body: str, head: str, source: str) -> None:
    detector = make_detector(body, head, source).train()
    batch = make_batch()
    detector(batch).total().backward()
    without = [name for name, value in detector.named_parameters() if value.requires_grad and value.grad is None]
    assert without == []
    torch.testing.assert_close(detector(batch).loss_normalizers(), detector.loss_normalizers(batch))
    found = detector.eval().detect(batch)
    assert len(found) == 2
    assert all(len(item) > 0 for item in found)


def test_a_classifiers_weights_are_loaded_into_the_body(tmp_path: Path) -> None:
    words = ["backbone=resnet18", "backbone.tail=fc", "neck=fpn", "proposals=grid"]
    backbone = build_detector(load_config(words), 2).backbone
    state = resnet18().state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    load_classifier_weights(backbone, str(tmp_path / "resnet18.pth"), architecture="resnet18", sha256=None)  # type: ignore[arg-type]
    assert torch.equal(backbone.body.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])  # type: ignore[attr-defined]


def test_gradient_checkpointing_is_passed_to_the_body() -> None:
    assert not hasattr(make_detector("torchvision", source="given").backbone, "checkpointing")
    detector = make_detector("resnet").train()
    batch = make_batch()
    expected = detector(batch).total()
    detector.backbone.checkpointing = True  # type: ignore[attr-defined]
    again = detector(batch).total()
    assert detector.backbone.body.checkpointing is True  # type: ignore[attr-defined]
    again.backward()
    torch.testing.assert_close(again, expected)


class _Uneven(torch.nn.Module):
    bottom_up_strides, bottom_up_channels = (4, 16), (3, 3)


def test_strides_that_do_not_double_are_refused() -> None:
    with pytest.raises(ValueError, match="strides double, up to 32; got strides of 4, 16"):
        Pyramid(body=_Uneven(), channels=4, tail=None, tail_channels=0)  # type: ignore[arg-type]
