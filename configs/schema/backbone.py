"""The network that turns an image into a feature map."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from detector.configs.errors import require
from detector.configs.missing import MISSING
from detector.configs.paths import path_setting


class Norm(Enum):
    """Normalization layers."""

    frozen_bn = "frozen_bn"  # batch norm with constant statistics, as published
    bn = "bn"  # batch norm with statistics of the batch
    gn = "gn"  # group norm: for training from scratch


class Tail(Enum):
    """The layers that run on each pooled RoI: the classifier's last layers, or two new fully connected layers."""

    native = "native"  # VGG: fc6, fc7; ResNet: res5
    fc = "fc"  # two new fully connected layers


@dataclass
class BackboneConfig:
    """Settings of every backbone."""

    kind: str = MISSING
    weights: str | None = path_setting(None)  # imagenet: torchvision's or timm's; or a path, URL or name; None: random
    weights_sha256: str | None = None  # SHA-256 that the file must have; None: no check
    tail: Tail = Tail.native  # the layers that run on each pooled RoI
    tail_channels: int = 1024  # channels of each layer of tail=fc
    tail_ranks: list[int] | None = None  # ranks of the tail's layers, from `detector compress`; 0: not compressed
    frozen_stages: int = 2  # number of frozen stages at the start; 2: VGG's conv1, conv2; ResNet's conv1, res2


@dataclass
class VGGConfig(BackboneConfig):
    """VGG16 (Simonyan and Zisserman 2014)."""

    kind: str = "vgg"
    batch_norm: bool = False  # VGG16 with batch norm: torchvision's vgg16_bn
    norm: Norm = Norm.frozen_bn  # type of the normalization layers, with batch_norm=true
    width: float = 1.0  # multiplies every channel count; narrow networks are for tests and demonstrations
    dropout: float = 0.5  # fraction of the outputs of fc6 and fc7 that training sets to 0


@dataclass
class ResNetConfig(BackboneConfig):
    """ResNet (He et al. 2015)."""

    kind: str = "resnet"
    depth: int = 50  # 18, 34, 50, 101 or 152
    norm: Norm = Norm.frozen_bn  # type of the normalization layers
    dilated_c5: bool | None = None  # res5 is dilated: the head reads it at stride 16; None: true for R-FCN, else false
    deformable_c5: bool = False  # the 3x3 convolutions of res5 move their samples (Deformable ConvNets); not for a tail
    stride_in_1x1: bool = False  # a block's stride is in its first 1x1 convolution, as in MSRA's Caffe models
    width: float = 1.0  # multiplies every channel count; narrow networks are for tests and demonstrations

    def __post_init__(self) -> None:
        require(
            self.depth in (18, 34, 50, 101, 152), f"backbone.depth is {self.depth}; expected 18, 34, 50, 101 or 152"
        )


@dataclass
class TorchvisionConfig(BackboneConfig):
    """Any torchvision classifier, up to a node of its graph."""

    kind: str = "torchvision"
    name: str = "mobilenet_v2"  # any classifier of torchvision.models
    node: str | None = None  # the head reads the output of this node; None: the last node of stride 16
    proposals_node: str | None = None  # the RPN reads the output of this node; None: of `node`
    deeper_nodes: list[str] = field(default_factory=list)  # nodes of larger stride: merged into `node`, or neck levels
    joined_channels: int = 128  # channels of the map merged with deeper_nodes
    joined_separable: bool = False  # its last 3x3 convolution is depthwise, then 1x1: an eighth of the arithmetic
    max_stride: int | None = None  # dilate convolutions beyond this stride, as R-FCN's res5 with 16; None: no limit
    tail: Tail = Tail.fc  # two new fully connected layers; a torchvision graph has no other tail
    norm: Norm = Norm.frozen_bn  # type of the normalization layers
    frozen_nodes: str | None = None  # this node and all nodes before it are not trained; None: all are trained
    frozen_stages: int = 0  # has no effect: a torchvision graph has no stages

    def __post_init__(self) -> None:
        require(
            not self.deeper_nodes or self.proposals_node in (None, self.node),
            "backbone.deeper_nodes join all outputs into one map; leave backbone.proposals_node out",
        )


@dataclass
class TimmConfig(BackboneConfig):
    """Any network of timm that gives feature maps, up to a node; needs the package timm."""

    kind: str = "timm"
    name: str = "resnet50"  # any network of timm with features_only=True; NAME.TAG chooses among its weights
    node: str | None = None  # the head reads the output of this module; None: the last one of stride 16
    deeper_nodes: list[str] = field(default_factory=list)  # nodes of larger stride: merged into `node`, or neck levels
    joined_channels: int = 128  # channels of the map merged with deeper_nodes
    joined_separable: bool = False  # its last 3x3 convolution is depthwise, then 1x1: an eighth of the arithmetic
    tail: Tail = Tail.fc  # two new fully connected layers; a network of timm has no other tail
    norm: Norm = Norm.frozen_bn  # type of the batch norms; other norms stay
    frozen_nodes: str | None = None  # this module and all modules before it are not trained; None: all are trained
    frozen_stages: int = 0  # has no effect: a network of timm has no stages
