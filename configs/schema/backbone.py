"""The network that turns an image into a feature map."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from detector.configs.errors import require
from detector.configs.missing import MISSING
from detector.configs.paths import path_setting


class Norm(Enum):
    frozen_bn = "frozen_bn"  # batch norm with constant statistics, as published
    bn = "bn"  # batch norm with statistics of the batch
    gn = "gn"  # group norm: for training from scratch


class Tail(Enum):
    """What runs on each pooled RoI: the classifier's own last layers, or two new fully connected ones."""

    native = "native"  # VGG: fc6, fc7; ResNet: res5
    fc = "fc"  # two new fully connected layers


@dataclass
class BackboneConfig:
    kind: str = MISSING
    weights: str | None = path_setting(None)  # None: random; "imagenet": torchvision's registry; or a path, URL or name
    weights_sha256: str | None = None  # checked when given
    tail: Tail = Tail.native  # what runs on each pooled RoI
    tail_channels: int = 1024  # width of each layer of tail=fc
    tail_ranks: list[int] | None = None  # of the tail's fully connected layers after `detector compress`; 0: whole
    frozen_stages: int = 2  # first stages that are not trained; 2: conv1 and conv2 of VGG, conv1 and res2 of ResNets


@dataclass
class VGGConfig(BackboneConfig):
    kind: str = "vgg"
    batch_norm: bool = False  # vgg16_bn
    norm: Norm = Norm.frozen_bn  # of vgg16_bn
    width: float = 1.0  # multiplies every channel count; narrow networks are for tests and demonstrations
    dropout: float = 0.5  # share of fc6's and fc7's outputs that training sets to 0


@dataclass
class ResNetConfig(BackboneConfig):
    kind: str = "resnet"
    depth: int = 50  # 18, 34, 50, 101 or 152
    norm: Norm = Norm.frozen_bn  # which normalization layers the network has
    dilated_c5: bool | None = None  # res5 at stride 16 as the head's map, not res4; None: as the head asks (R-FCN: yes)
    stride_in_1x1: bool = False  # MSRA's Caffe ResNets stride in a block's first 1x1 convolution
    width: float = 1.0  # multiplies every channel count; narrow networks are for tests and demonstrations

    def __post_init__(self) -> None:
        require(
            self.depth in (18, 34, 50, 101, 152), f"backbone.depth is {self.depth}; expected 18, 34, 50, 101 or 152"
        )


@dataclass
class TorchvisionConfig(BackboneConfig):
    """Any torchvision classifier, cut at a node of its graph."""

    kind: str = "torchvision"
    name: str = "mobilenet_v2"  # any classifier of torchvision.models
    node: str | None = None  # output read by the head (None: the last of stride 16); see `detector info backbone=NAME`
    proposals_node: str | None = None  # output read by a proposal network; None: the same
    deeper_nodes: list[str] = field(default_factory=list)  # outputs of larger strides: joined into `node`, or levels
    joined_channels: int = 128  # of the joined map
    joined_separable: bool = False  # its last 3x3 as depthwise and 1x1: an eighth of the arithmetic
    max_stride: int | None = None  # convolutions that would go beyond it are dilated, as R-FCN's res5 (16)
    tail: Tail = Tail.fc  # two new fully connected layers; a graph has no tail of its own
    norm: Norm = Norm.frozen_bn  # which normalization layers the network has
    frozen_nodes: str | None = None  # the graph up to and including this node is not trained
    frozen_stages: int = 0  # does not apply: a graph has no stages

    def __post_init__(self) -> None:
        require(
            not self.deeper_nodes or self.proposals_node in (None, self.node),
            "backbone.deeper_nodes join all outputs into one map; leave backbone.proposals_node out",
        )
        require(self.joined_channels >= 1, f"backbone.joined_channels is {self.joined_channels}; expected at least 1")
