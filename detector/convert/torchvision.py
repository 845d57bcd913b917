"""Converts torchvision's FasterRCNN ResNet-50-FPN, or one of another depth, to this project's state dict.

Besides the names, two things differ in torchvision. An anchor has one score (a sigmoid, not a softmax of two). And the
frozen norms of the ResNet add no small number to the variance.
Source: torchvision `models/detection/faster_rcnn.py`, `models/detection/rpn.py`, `ops/feature_pyramid_network.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from detector.backbones.resnet import DEPTHS

BODY, LATERAL, SMOOTH = "backbone.body.", "backbone.fpn.inner_blocks", "backbone.fpn.layer_blocks"
RPN = "rpn.head"
FC = "roi_heads.box_head.fc"
SCORES, BOXES = "roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred"
LEVELS = 4  # of the ResNet: res2 to res5
EPS = 1e-5  # of the norms here


def is_fpn(weights: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of a Faster R-CNN with a ResNet and a feature pyramid."""
    needed = (f"{BODY}layer1.0.conv1.weight", f"{LATERAL}.0.0.weight", f"{RPN}.conv.0.0.weight", f"{FC}7.weight")
    return all(name in weights for name in needed)


def depth(weights: Mapping[str, Tensor]) -> int:
    """Return the depth of the ResNet. Raises ValueError for a depth that this project does not have."""
    names = [name.removeprefix(BODY) for name in weights if name.startswith(BODY)]
    blocks = tuple(len({name.split(".")[1] for name in names if name.startswith(f"layer{i}.")}) for i in range(1, 5))
    wanted = (blocks, "layer1.0.conv3.weight" in names)
    for number, stages in DEPTHS.items():
        if stages == wanted:
            return number
    raise ValueError(
        f"expected the blocks of a ResNet-{', '.join(map(str, DEPTHS))}, found {blocks} in layer1 to layer4"
    )


def backbone_state(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return conv1 to res5 with the classifier's names.

    Norms without a batch counter are frozen. torchvision's COCO_V1 weights, and what is trained from them, add nothing
    to their variance. So EPS, which this project adds, is subtracted.
    """
    state = {name.removeprefix(BODY): value for name, value in weights.items() if name.startswith(BODY)}
    if not any(name.endswith("num_batches_tracked") for name in state):
        state = {name: value - EPS if name.endswith("running_var") else value for name, value in state.items()}
    return state


def detector_state(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return pyramid, proposal network and head with this project's names."""
    state = {}
    for kind in ("weight", "bias"):
        for level in range(LEVELS):
            state[f"backbone.fpn.lateral.{level}.{kind}"] = weights[f"{LATERAL}.{level}.0.{kind}"]
            state[f"backbone.fpn.smooth.{level}.{kind}"] = weights[f"{SMOOTH}.{level}.0.{kind}"]
        state[f"proposals.conv.{kind}"] = weights[f"{RPN}.conv.0.0.{kind}"]
        objects = weights[f"{RPN}.cls_logits.{kind}"]
        state[f"proposals.scores.{kind}"] = torch.stack((torch.zeros_like(objects), objects), dim=1).flatten(0, 1)
        state[f"proposals.deltas.{kind}"] = weights[f"{RPN}.bbox_pred.{kind}"]
        for index, layer in ((1, f"{FC}6"), (3, f"{FC}7")):
            state[f"backbone.tail.{index}.{kind}"] = weights[f"{layer}.{kind}"]
        state[f"head.scores.{kind}"] = weights[f"{SCORES}.{kind}"]
        # Drop the box outputs of background, which come first.
        state[f"head.deltas.{kind}"] = weights[f"{BOXES}.{kind}"][4:]
    return state
