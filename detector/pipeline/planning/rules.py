"""The rules of a plan: from a data set's fingerprint and a machine to settings, each with its reason.

Few rules, no search. `docs/plan.md` tells them with where they come from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from detector.pipeline.planning.anchors import GOOD, fit_anchors
from detector.pipeline.planning.fingerprint import Fingerprint
from detector.pipeline.planning.machine import Machine

CELLS = 5  # cells of the map that an object of the smallest class should span
SCALES = (0.8, 0.9, 1.0, 1.1, 1.2)  # of the training sizes, around the test size
COARSE, FINE = 16, 8  # strides of the map
ADAMW_RATE, ADAMW_IMAGES = 0.0004, 2  # learning rate, and the images of a step that it was measured with
NEW_FACTOR = 4.0  # rate of the RPN and of R-FCN over that of the other layers


@dataclass(frozen=True, slots=True)
class Choice:
    """One planned setting."""

    key: str
    value: Any  # a plain value: number, text, list, dict, True, False or None
    reason: str

    @property
    def override(self) -> str:
        """The setting as a command line writes it."""
        return f"{self.key}={_written(self.value)}"


@dataclass(frozen=True, slots=True)
class Parts:
    """What the user or the defaults have chosen already; the rules fit their values to it."""

    head: str  # fast_rcnn | rfcn
    proposals: str  # rpn, or a source of given boxes
    optimizer: str  # sgd | adamw
    weights: bool  # whether the backbone starts from a classifier's weights
    nodes: Mapping[int, str]  # stride -> output of the backbone; empty for a backbone without a choice of outputs


def input_rules(data: Fingerprint, machine: Machine) -> tuple[int, int, list[Choice]]:
    """The test size (shorter side, pixels), the map's stride, and the choices that they make."""
    least, most = (320, 480) if machine.device == "cpu" else (480, 800)
    wanted = CELLS * COARSE / data.smallest_side
    stride = COARSE if wanted <= most else FINE
    if stride == FINE:
        wanted = CELLS * FINE / data.smallest_side
    size = int(min(max(wanted, least), most))
    size = -(-size // 16) * 16
    sides = sorted({round(size * scale / 16) * 16 for scale in SCALES})
    pixels = data.smallest_side * size
    why = (
        f"half of the objects of {data.smallest_class}, the smallest class, are under {pixels:.0f} pixels then: "
        f"{pixels / stride:.1f} cells of stride {stride}"
    )
    longest = int(-(-size * max(SCALES) * data.elongation * 1.05 // 16) * 16)
    return (
        size,
        stride,
        [
            Choice("input.test_short_side", size, why),
            Choice("input.short_sides", sides, f"training sees objects at {SCALES[0]} to {SCALES[-1]} of that size"),
            Choice(
                "input.max_side", longest, f"95 of 100 images are at most {data.elongation:.2f} times as long as wide"
            ),
            Choice("input.antialias", True, "large photographs shrink without noise, and in a fraction of the time"),
        ],
    )


def backbone_rules(parts: Parts, stride: int) -> list[Choice]:
    """Which outputs of the backbone make the map, and what is trained."""
    if not parts.nodes:
        return []
    coarse = parts.nodes.get(COARSE) or parts.nodes[max(parts.nodes)]
    if stride < COARSE and stride in parts.nodes:
        chosen = [
            Choice("backbone.node", parts.nodes[stride], f"small objects need a map of stride {stride}"),
            Choice("backbone.deeper_nodes", [coarse], f"the features of stride {COARSE} are added to the fine map"),
            Choice("backbone.joined_separable", True, "a dense 3x3 on the fine map would cost as much as the backbone"),
        ]
    else:
        why = f"the last layers at stride {COARSE}; deeper ones cost more than they bring in minutes"
        chosen = [Choice("backbone.node", coarse, why)]
    if parts.weights:
        frozen = parts.nodes.get(4)
        chosen.append(Choice("backbone.frozen_nodes", frozen, "edges and textures of ImageNet are kept as they are"))
    else:
        chosen.append(Choice("backbone.norm", "gn", "without classifier weights a frozen batch norm has no statistics"))
        chosen.append(Choice("backbone.frozen_nodes", None, "without classifier weights every layer has to learn"))
    return chosen


def proposal_rules(data: Fingerprint, size: int, stride: int) -> list[Choice]:
    """Anchors from the boxes, at all training sizes; how many proposals from how crowded the images are."""
    grown = np.asarray(SCALES)[:, None] * size
    shapes = fit_anchors((grown * data.widths).ravel(), (grown * data.heights).ravel(), stride)
    many = max(300, min(1000, 10 * data.most_objects))
    rpn = [Choice("proposals.channels", 256, "enough for small backbones; the paper's 512 are for VGG16")]
    if stride < COARSE:
        rpn = [
            Choice("proposals.channels", 128, "as wide as the joined map"),
            Choice(
                "proposals.separable",
                True,
                f"on a map of stride {stride} a dense 3x3 would cost as much as the backbone",
            ),
        ]
    return [
        Choice(
            "proposals.scales",
            list(shapes.scales),
            f"clustered; {shapes.recall:.0%} of the objects meet an anchor of IoU {GOOD} or more",
        ),
        Choice("proposals.aspects", list(shapes.aspects), "clustered with the scales; height by width"),
        *rpn,
        Choice("proposals.min_size", 2.0, "a larger limit would lose small objects"),
        Choice("proposals.pre_nms_train", 12000, "as published; fewer are all on the objects that are easy to find"),
        Choice("proposals.pre_nms_test", 12000, "rare small objects rank behind thousands of other boxes"),
        Choice("proposals.top_k_train", 2 * many, "enough background to sample from"),
        Choice("proposals.top_k_test", many, f"at most {data.most_objects} objects are in one image"),
    ]


def head_rules(parts: Parts) -> list[Choice]:
    """The head's size and the RoIs that it learns from."""
    background = Choice("sampling.background_iou_low", 0.0, "with few objects nearly all background has IoU 0")
    if parts.head == "rfcn":
        return [
            Choice("head.k", 3, "bins of few cells; 7 is for objects of half the image"),
            Choice("head.channels", 256, "the backbone's map has few channels"),
            Choice("head.pooling", "align", "bins rounded to the stride blur boxes"),
            Choice("sampling.rois_per_image", 256, "RoIs cost almost nothing in this head"),
            background,
        ]
    return [
        Choice("head.pooling", "roi_align", "bins rounded to the stride blur boxes"),
        Choice("backbone.tail", "fc", "two layers over each RoI"),
        Choice("backbone.tail_channels", 512, "half of the paper's width: small sets need no more"),
        Choice("sampling.rois_per_image", 128, "128 RoIs of an image, a quarter of them objects"),
        background,
    ]


def postprocess_rules(data: Fingerprint) -> list[Choice]:
    """NMS from how much objects of one class overlap; scores are kept down to the floor of the metric."""
    nms = round(min(0.6, max(0.4, data.overlap + 0.1)), 2)
    most = max(100, 2 * data.most_objects)
    return [
        Choice(
            "postprocess.nms_iou",
            nms,
            f"99 of 100 objects overlap another of their class by at most {data.overlap:.2f}",
        ),
        Choice("postprocess.score_threshold", 0.001, "average precision counts every rank; draw from 0.5 on"),
        Choice("postprocess.max_per_image", most, f"at most {data.most_objects} objects are in one image"),
    ]


def optimizer_rules(parts: Parts, images: int) -> list[Choice]:
    """AdamW with a cosine, a warm-up and clipped gradients; SGD's rate where the user asks for SGD.

    `docs/plan.md` has the measurements. AdamW moves the weights of every layer by about the same amount. The new
    convolutions of the RPN and of R-FCN start random, so they get a larger rate.
    """
    if parts.optimizer == "adamw":
        rate = round(ADAMW_RATE * math.sqrt(images / ADAMW_IMAGES), 6)
        chosen = [Choice("optimizer.lr", rate, f"AdamW: {ADAMW_RATE} x sqrt({images} images a step / {ADAMW_IMAGES})")]
        new = {"proposals": parts.proposals == "rpn", "head": parts.head == "rfcn"}
        factors = {part: NEW_FACTOR for part, is_new in new.items() if is_new}
        if factors:
            why = "new convolutions start random and have few steps to learn"
            chosen.append(Choice("optimizer.lr_factors", factors, why))
    else:
        each = 0.005 if parts.head == "rfcn" or not parts.weights else 0.0025
        chosen = [Choice("optimizer.lr", round(each * images, 6), f"{each} for each of {images} images a step")]
    return [
        *chosen,
        Choice("optimizer.clip_norm", 10.0, "one hard image must not change the weights too much"),
        Choice("schedule.decay", "cosine", "the best of what fits any number of steps"),
    ]


def images_per_step(data: Fingerprint, machine: Machine) -> Choice:
    """Few images a step on a CPU, more where a GPU would be idle; never more than there are."""
    images, why = (2, "small steps, many of them") if machine.device == "cpu" else (8, "fewer would leave the GPU idle")
    return Choice("trainer.images_per_step", min(images, data.num_images), why)


def machine_rules(machine: Machine) -> list[Choice]:
    """Precision and loader workers."""
    precision, has = ("bf16", "has") if machine.fast_bf16 else ("fp32", "has no")
    if machine.device == "cpu" and machine.cores <= 4:
        workers, why = 0, "decoding needs little; every core is for the network"
    else:
        workers, why = min(8, machine.cores - 1), f"{machine.cores} cores"
    return [
        Choice("trainer.precision", precision, f"this {machine.device.upper()} {has} bf16 arithmetic"),
        Choice("trainer.workers", workers, why),
    ]


def plan_settings(data: Fingerprint, machine: Machine, parts: Parts) -> list[Choice]:
    """Every planned setting but those that follow from time."""
    size, stride, chosen = input_rules(data, machine)
    images = images_per_step(data, machine)
    return [
        *chosen,
        *backbone_rules(parts, stride),
        *(proposal_rules(data, size, stride) if parts.proposals == "rpn" else []),
        *head_rules(parts),
        *postprocess_rules(data),
        images,
        *optimizer_rules(parts, images.value),
        *machine_rules(machine),
    ]


def _written(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_written(item)}" for key, item in value.items()) + "}"
    return str(value)
