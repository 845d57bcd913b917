"""Converts Detectron2's R50-C4 detectors (such as Faster R-CNN) to this project's state dicts.

Besides the names, three things differ in Detectron2. Background is the last class. An anchor has one score (a sigmoid,
not a softmax of two). Anchors have their centre on the corner of a cell, are not rounded, and have another order. The
converted weights compensate for all three, so the detector gives the same proposals.
Source: detectron2 `modeling/proposal_generator/rpn.py`, `modeling/anchor_generator.py`, `modeling/roi_heads`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

SIZES = (32, 64, 128, 256, 512)
ASPECTS = (0.5, 1.0, 2.0)
RES5 = "roi_heads.res5."
SCORES, BOXES = "roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred"
RPN = "proposal_generator.rpn_head"


def is_c4(weights: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of a C4 detector, in which res5 runs on RoIs."""
    return f"{SCORES}.weight" in weights and any(name.startswith(RES5) for name in weights)


def backbone_state(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return conv1 to res5 with torchvision's names."""
    state = {}
    for name, value in weights.items():
        short = re.sub(r"^(backbone\.|roi_heads\.)", "", name)
        if match := re.fullmatch(r"stem\.conv1\.(norm\.)?(\w+)", short):
            state[f"{'bn1' if match[1] else 'conv1'}.{match[2]}"] = value
        elif match := re.fullmatch(r"res([2-5])\.(\d+)\.(shortcut|conv\d)\.(norm\.)?(\w+)", short):
            stage, block, layer, norm, kind = match.groups()
            own = ("downsample.1" if norm else "downsample.0") if layer == "shortcut" else layer
            own = own.replace("conv", "bn") if norm else own
            state[f"layer{int(stage) - 1}.{block}.{own}.{kind}"] = value
    return state


def detector_state(weights: Mapping[str, Tensor], base_anchors: Tensor) -> dict[str, Tensor]:
    """Return head and proposal network with this project's names; `base_anchors` [A, 4] are those of this project.

    Raises ValueError for another number of anchors.
    """
    state = {f"proposals.conv.{kind}": weights[f"{RPN}.conv.{kind}"] for kind in ("weight", "bias")}
    count = len(SIZES) * len(ASPECTS)
    if len(weights[f"{RPN}.objectness_logits.bias"]) != count or len(base_anchors) != count:
        raise ValueError(
            f"expected {count} anchors per cell (sizes {SIZES}, aspects {ASPECTS}), found "
            f"{len(weights[f'{RPN}.objectness_logits.bias'])} in the file and {len(base_anchors)} here"
        )
    # Detectron2 orders anchors by size, then aspect; this project by aspect, then size.
    order = torch.arange(count).reshape(len(SIZES), len(ASPECTS)).t().reshape(-1)
    scale, shift = anchor_change(detectron2_anchors()[order], base_anchors)
    for kind in ("weight", "bias"):
        objects = weights[f"{RPN}.objectness_logits.{kind}"][order]
        state[f"proposals.scores.{kind}"] = torch.stack((torch.zeros_like(objects), objects), dim=1).flatten(0, 1)
        deltas = weights[f"{RPN}.anchor_deltas.{kind}"].unflatten(0, (count, 4))[order]
        deltas = deltas * scale.reshape(count, 4, *[1] * (deltas.ndim - 2))
        state[f"proposals.deltas.{kind}"] = (deltas + shift if kind == "bias" else deltas).flatten(0, 1)
        state[f"head.scores.{kind}"] = weights[f"{SCORES}.{kind}"].roll(1, dims=0)
        state[f"head.deltas.{kind}"] = weights[f"{BOXES}.{kind}"]
    return state


def detectron2_anchors() -> Tensor:
    """Return Detectron2's anchors [A, 4] of the first cell, in Detectron2's order."""
    rows = []
    for size in SIZES:
        for aspect in ASPECTS:
            width = (size * size / aspect) ** 0.5
            height = aspect * width
            rows.append((-width / 2, -height / 2, width / 2, height / 2))
    return torch.tensor(rows)


def anchor_change(old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale and shift [A, 4] from deltas of the anchors `old` to deltas of the anchors `new` of equal boxes."""
    old, new = old.double(), new.double()
    old_size, new_size = old[:, 2:] - old[:, :2], new[:, 2:] - new[:, :2]
    old_centre, new_centre = (old[:, :2] + old[:, 2:]) / 2, (new[:, :2] + new[:, 2:]) / 2
    scale = torch.cat((old_size / new_size, torch.ones_like(old_size)), dim=1)
    shift = torch.cat(((old_centre - new_centre) / new_size, (old_size / new_size).log()), dim=1)
    return scale.float(), shift.float()
