"""Small detectors whose scores differ, and images of noise with boxes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detector.backbones.deformable import DeformableConv2d
from detector.build import build_detector
from detector.configs.compose import load_config
from detector.model import Detector
from detector.structures import Batch, Detections, Instances, Proposals

SHORT_SIDE, MAX_SIDE, NUM_CLASSES = 96, 160, 5
SIZES = ((50, 77), (300, 120), (200, 220))  # height and width; none is the size of the traced image
COUNTS = (0, 1, 300)
LIGHT_HEAD = ("head=light_head", "head.k=3", "head.mid_channels=8", "head.fc_channels=32")


def tiny_detector(*words: str) -> Detector:
    """Return a detector with random weights, norms and score layers, so that its outputs differ from box to box."""
    torch.manual_seed(0)
    settings = ["backbone.weights=null", f"input.max_side={MAX_SIDE}", *words]
    detector = build_detector(load_config(settings), NUM_CLASSES).eval()
    for module in detector.modules():
        if hasattr(module, "running_var"):
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.normal_(module.running_mean, std=0.1)
    for name in ("scores", "deltas", "score_maps", "box_maps", "score_offsets", "box_offsets"):
        if hasattr(detector.head, name):
            torch.nn.init.normal_(getattr(detector.head, name).weight, std=0.3)
    for module in detector.modules():
        if isinstance(module, DeformableConv2d):
            torch.nn.init.normal_(module.offset.bias, std=2.0)  # type: ignore[arg-type]
    return detector


@pytest.fixture(scope="session")
def rfcn() -> Detector:
    """R-FCN with a proposal network."""
    return tiny_detector("backbone=resnet18_narrow", "head=rfcn", "head.k=3", "head.channels=32", "proposals=rpn")


@pytest.fixture(scope="session")
def light_head() -> Detector:
    """Light-Head R-CNN with a proposal network."""
    return tiny_detector("backbone=resnet18_narrow", *LIGHT_HEAD, "proposals=rpn")


@pytest.fixture(scope="session")
def fast_rcnn() -> Detector:
    """Fast R-CNN with RoI pooling and given proposals."""
    return tiny_detector("backbone=vgg16", "backbone.width=0.125", "proposals=grid")


def photograph(height: int, width: int) -> Tensor:
    """Return patches of noise [height, width, 3] uint8."""
    generator = torch.Generator().manual_seed(height * width)
    coarse = torch.rand(1, 3, 8, 8, generator=generator) * 255
    image = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    return image.to(torch.uint8).permute(1, 2, 0).contiguous()


def boxes_in(height: int, width: int, count: int) -> Tensor:
    """Return boxes [count, 4] anywhere in an image, at least one pixel wide and high."""
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(count)) * torch.tensor([width, height])
    corners = corners.sort(dim=1).values
    return torch.cat((corners[:, 0], corners[:, 1] + 1), dim=1)


def detect(detector: Detector, image: Tensor, proposals: Tensor) -> Detections:
    """Return the detector's own detections in an image [H, W, 3]."""
    nothing = Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    given = [Proposals(proposals, torch.zeros(len(proposals)))]
    return detector.detect(Batch([image.permute(2, 0, 1)], [nothing], given, ["image"], [0], [SHORT_SIDE]))[0]
