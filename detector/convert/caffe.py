"""Converts layers of the original Caffe networks to this project's state dicts.

Layers of classifiers get torchvision's names (`classifier_state`), which every backbone can load. Layers of the head
and the proposal network (`detector_state`) lose the box outputs of background, which were never trained.
Source: py-faster-rcnn `models/pascal_voc/VGG16`, py-R-FCN `models/pascal_voc/ResNet-101`, and
KaimingHe/deep-residual-networks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

Layers = Mapping[str, Sequence[Tensor]]

VGG16_FEATURES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # torchvision's indices of conv1_1, ..., conv5_3
VGG16_STAGES = (2, 2, 3, 3, 3)
VGG16 = {
    f"conv{stage}_{number}": f"features.{VGG16_FEATURES[sum(VGG16_STAGES[: stage - 1]) + number - 1]}"
    for stage in range(1, 6)
    for number in range(1, VGG16_STAGES[stage - 1] + 1)
} | {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}
BRANCHES = {"1": "downsample.0", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
RESNET_DEPTHS = {6: 50, 23: 101, 36: 152}  # number of blocks in res4 -> depth


def classifier_state(layers: Layers) -> dict[str, Tensor]:
    """Return the layers of Caffe's VGG16 or an MSRA ResNet that torchvision's network has too, with its names.

    A ResNet's BatchNorm and Scale layers become one batch norm. Raises ValueError for layers of another network.
    """
    return _vgg16_state(layers) if "conv1_1" in layers else _resnet_state(layers)


def resnet_depth(layers: Layers) -> int:
    """Return 50, 101 or 152. Raises ValueError for another number of blocks."""
    blocks = sum(1 for name in layers if re.fullmatch(r"res4\w+_branch2a", name))
    if blocks not in RESNET_DEPTHS:
        raise ValueError(f"expected a VGG16 or a ResNet with 6, 23 or 36 blocks in res4, found {blocks}")
    return RESNET_DEPTHS[blocks]


def detector_state(layers: Layers, *, num_anchors: int | None) -> dict[str, Tensor]:
    """Return the layers of the head and, with `num_anchors`, of the proposal network as `head.` and `proposals.`."""
    state: dict[str, Tensor] = {}

    def add(name: str, layer: str, skip: int = 0) -> None:
        weight, bias = layers[layer]
        state[f"{name}.weight"], state[f"{name}.bias"] = weight[skip:], bias.reshape(-1)[skip:]

    if "rfcn_cls" in layers:
        bins = k_squared(layers)
        add("head.reduce", "conv_new_1")
        add("head.score_maps", "rfcn_cls")
        add("head.box_maps", "rfcn_bbox", skip=4 * bins)
    else:
        add("head.scores", "cls_score")
        add("head.deltas", "bbox_pred", skip=4)
    if num_anchors is not None:
        add("proposals.conv", "rpn_conv/3x3" if "rpn_conv/3x3" in layers else "rpn_conv1")
        add("proposals.scores", "rpn_cls_score")
        add("proposals.deltas", "rpn_bbox_pred")
        for kind in ("weight", "bias"):
            # Caffe: background scores of all anchors, then object scores. Here: the two scores of each anchor.
            scores = state[f"proposals.scores.{kind}"]
            state[f"proposals.scores.{kind}"] = scores.unflatten(0, (2, num_anchors)).transpose(0, 1).flatten(0, 1)
    return state


def num_classes(layers: Layers) -> int:
    """Return the number of foreground classes."""
    if "rfcn_cls" in layers:
        return len(layers["rfcn_cls"][0]) // k_squared(layers) - 1
    return len(layers["cls_score"][0]) - 1


def class_agnostic(layers: Layers) -> bool:
    """Whether all classes share the box outputs. Then there are two sets, background and foreground."""
    if "rfcn_cls" in layers:
        return len(layers["rfcn_bbox"][0]) == 2 * 4 * k_squared(layers)
    return len(layers["bbox_pred"][0]) == 2 * 4


def k_squared(layers: Layers) -> int:
    """Return the bins of an R-FCN: 7 x 7, as in the released models, if it fits, else the largest square that fits."""
    scores, boxes = len(layers["rfcn_cls"][0]), len(layers["rfcn_bbox"][0])
    found = [k * k for k in range(1, 15) if scores % (k * k) == 0 and boxes % (4 * k * k) == 0 and scores > k * k]
    if not found:
        raise ValueError(
            f"expected k x k (C + 1) maps in rfcn_cls and k x k 4 (C + 1) in rfcn_bbox, found {scores} and {boxes}"
        )
    return 49 if 49 in found else found[-1]


def _vgg16_state(layers: Layers) -> dict[str, Tensor]:
    state = {}
    for layer, name in VGG16.items():
        if layer in layers:
            weight, bias = layers[layer]
            state[f"{name}.weight"], state[f"{name}.bias"] = weight, bias.reshape(-1)
    return state


def _resnet_state(layers: Layers) -> dict[str, Tensor]:
    resnet_depth(layers)
    state = {}
    for layer, blobs in layers.items():
        if layer == "conv1":
            state["conv1.weight"] = blobs[0]
            state |= _norm(layers, "conv1", "bn1", before=blobs[1] if len(blobs) > 1 else None)
        elif layer in ("fc1000", "fc"):
            state["fc.weight"], state["fc.bias"] = blobs[0], blobs[1].reshape(-1)
        elif match := re.fullmatch(r"res(([2-5])([a-z])(\d*)_branch(1|2[abc]))", layer):
            suffix, stage, letter, number, branch = match.groups()
            index = int(number) if number else ord(letter) - ord("a")  # 3a, 3b, 3c; or 3a, 3b1, 3b2, ...
            block = f"layer{int(stage) - 1}.{index}"
            conv = f"{block}.{BRANCHES[branch]}"
            state[f"{conv}.weight"] = blobs[0]
            norm = f"{block}.downsample.1" if branch == "1" else conv.replace("conv", "bn")
            state |= _norm(layers, suffix, norm, before=blobs[1] if len(blobs) > 1 else None)
    return state


def _norm(layers: Layers, suffix: str, name: str, before: Tensor | None) -> dict[str, Tensor]:
    """Return the batch norm after a convolution. It includes the convolution's bias, `before`.

    Caffe stores sums: divide mean and variance by the third blob, a count (1 if they are already divided).
    """
    prefix = "_" if suffix == "conv1" else ""
    mean, variance, count = layers[f"bn{prefix}{suffix}"]
    weight, bias = layers[f"scale{prefix}{suffix}"]
    factor = 0.0 if float(count) == 0 else 1.0 / float(count)
    mean = mean.reshape(-1) * factor
    return {
        f"{name}.weight": weight.reshape(-1),
        f"{name}.bias": bias.reshape(-1),
        f"{name}.running_mean": mean if before is None else mean - before.reshape(-1),
        f"{name}.running_var": variance.reshape(-1) * factor,
    }
