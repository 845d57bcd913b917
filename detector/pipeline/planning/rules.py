"""The rules of a plan: from a data set's fingerprint and a machine to settings, each with a reason.

There are few rules and no search. `docs/plan.md` lists the rules and the measurements behind them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from detector.configs.written import written
from detector.pipeline.planning.anchors import MIN_IOU, fit_anchors, fit_pyramid_anchors, placed_recall
from detector.pipeline.planning.fingerprint import Fingerprint
from detector.pipeline.planning.machine import Machine

CELLS = 5  # cells of the map that the median object of the smallest class should span
SCALES = (0.8, 0.9, 1.0, 1.1, 1.2)  # of the training sizes, around the test size
COARSE, FINE = 16, 8  # strides of the map
LEVELS = (4, 8, 16, 32, 64)  # strides of a feature pyramid's levels
PUBLISHED_WIDTH = 256  # channels of a feature pyramid's levels
ADAMW_RATE, ADAMW_IMAGES = 0.0004, 2  # learning rate, and the images per step at which it was measured
LARGE = 3.0  # million pixels per image: from here on, decoding gets its own process
MOSAICS = 0.5  # part of the training images
MANY_EPOCHS = 12  # with 15 epochs or more mosaics win, with 7 they do not (docs/plan.md)
VOTING_IOU = 0.75  # similar boxes; 0.65 to 0.8 are as good (docs/plan.md)
SAMPLED = 20_000  # objects to which anchors are fitted, of a large data set; more would give the same anchors
NEW_FACTOR = 4.0  # learning rate of the RPN and of NEW_HEADS / rate of the other layers
NEW_HEADS = ("light_head", "rfcn", "deformable_rfcn")  # heads with convolutions, which start random


@dataclass(frozen=True, slots=True)
class Choice:
    """One planned setting."""

    key: str
    value: Any  # a plain value: number, text, list, dict, True, False or None
    reason: str

    @property
    def override(self) -> str:
        """The setting as written on a command line."""
        return f"{self.key}={written(self.value)}"


@dataclass(frozen=True, slots=True)
class Parts:
    """Parts of the detector that the user or the defaults chose. The rules fit their values to them."""

    head: str  # fast_rcnn | light_head | rfcn | deformable_rfcn, or a head without rules
    proposals: str  # rpn, or a source of precomputed boxes
    optimizer: str  # sgd | adamw
    weights: bool  # whether the backbone starts from a classifier's weights
    nodes: Mapping[int, str]  # stride -> output of the backbone; empty if the output cannot be chosen
    pyramid: bool = False  # whether the neck is a feature pyramid


@dataclass(frozen=True, slots=True)
class Given:
    """Values that the user or the backbone fixes; None: not fixed. The rules fit the other settings to them."""

    test_side: int | None = None  # input.test_short_side
    train_sides: tuple[int, ...] | None = None  # input.short_sides
    stride: int | None = None  # of the map
    images_per_step: int | None = None


class InputSize(NamedTuple):
    """The sizes of the images, and the stride of the map. Sides are the shorter ones, in pixels of the input."""

    test_side: int
    train_sides: tuple[float, ...]
    stride: int


def input_rules(data: Fingerprint, machine: Machine, given: Given) -> tuple[InputSize, list[Choice]]:
    """Return the sizes of images and map, and the choices that follow."""
    least, most = (320, 480) if machine.device == "cpu" else (480, 800)
    size = given.test_side
    if size is None and given.train_sides is not None:
        size = sorted(given.train_sides)[len(given.train_sides) // 2]
    stride = given.stride
    if stride is None:
        stride = COARSE if CELLS * COARSE / data.smallest_side <= (size or most) else FINE
    if size is None:
        size = int(min(max(CELLS * stride / data.smallest_side, least), most))
        size = -(-size // 16) * 16
    grown: tuple[float, ...] = given.train_sides or tuple(scale * size for scale in SCALES)
    sides = sorted(given.train_sides) if given.train_sides else sorted({max(16, round(s / 16) * 16) for s in grown})
    pixels = data.smallest_side * size
    why = (
        f"the median object of {data.smallest_class}, the smallest class, has a side of {pixels:.0f} pixels: "
        f"{pixels / stride:.1f} cells of stride {stride}"
    )
    if pixels < stride:
        why += "; too small to detect: raise this size, or cut the photographs into parts"
    longest = int(-(-max(size, *grown) * data.elongation * 1.05 // 16) * 16)
    return (
        InputSize(size, grown, stride),
        [
            Choice("input.test_short_side", size, why),
            Choice("input.short_sides", sides, f"{SCALES[0]} to {SCALES[-1]} times the test size"),
            Choice(
                "input.max_side", longest, f"95 of 100 images are at most {data.elongation:.2f} times as long as wide"
            ),
            Choice("input.antialias", True, "large photographs shrink without noise, and in a fraction of the time"),
        ],
    )


def mosaic_rules(data: Fingerprint, parts: Parts, epochs: float) -> list[Choice]:
    """Return mosaics, and the box loss that goes with them, for a training of many epochs.

    A mosaic decodes four images, and its boxes cannot come from a file.
    """
    if epochs < MANY_EPOCHS or data.megapixels >= LARGE or parts.proposals != "rpn":
        return []
    why = f"the training sees each image {epochs:.0f} times; in a mosaic its objects have other sizes and neighbours"
    chosen = [Choice("input.mosaic", MOSAICS, why)]
    if parts.head == "fast_rcnn":  # other heads were not measured
        chosen.append(Choice("loss.box", "giou", "with mosaics, a loss of the overlap fits edges better"))
    return chosen


def backbone_rules(parts: Parts, machine: Machine, stride: int, given: Given) -> list[Choice]:
    """Return the outputs of the backbone that make the map, and the layers to train."""
    if not parts.nodes:
        return []
    if parts.pyramid:
        return [*pyramid_nodes(parts, machine), *trained_layers(parts)]
    coarse = parts.nodes.get(COARSE) or parts.nodes[max(parts.nodes)]
    chosen: list[Choice] = []
    if given.stride is not None:
        pass  # the user chose the output
    elif stride < COARSE and stride in parts.nodes:
        chosen = [
            Choice("backbone.node", parts.nodes[stride], f"small objects need a map of stride {stride}"),
            Choice("backbone.deeper_nodes", [coarse], f"the features of stride {COARSE} are added to the fine map"),
            Choice("backbone.joined_separable", True, "a dense 3x3 on the fine map would cost as much as the backbone"),
        ]
    else:
        why = f"the last output of stride {COARSE}; in a short training deeper layers cost more than they improve"
        chosen = [Choice("backbone.node", coarse, why)]
    return [*chosen, *trained_layers(parts)]


def pyramid_nodes(parts: Parts, machine: Machine) -> list[Choice]:
    """Return the outputs of the backbone that a feature pyramid reads."""
    finest = _finest_level(machine)
    first, *deeper = [node for stride, node in sorted(parts.nodes.items()) if stride >= finest]
    why = "finer levels would cost most of a step" if finest > LEVELS[0] else "as published"
    return [
        Choice("backbone.node", first, f"the finest level has stride {finest}; {why}"),
        Choice("backbone.deeper_nodes", deeper, "the coarser levels of the pyramid"),
    ]


def neck_rules(parts: Parts, machine: Machine) -> list[Choice]:
    """Return the width of a feature pyramid's levels."""
    if not parts.pyramid:
        return []
    if machine.device == "cuda":
        return [Choice("neck.channels", PUBLISHED_WIDTH, "as published")]
    why = "half of the published width, which would cost more than a small backbone"
    return [Choice("neck.channels", PUBLISHED_WIDTH // 2, why)]


def trained_layers(parts: Parts) -> list[Choice]:
    """Return which layers of the backbone are trained, and with which normalization."""
    if parts.weights:
        frozen = parts.nodes.get(4)
        return [Choice("backbone.frozen_nodes", frozen, "the first layers keep ImageNet's edges and textures")]
    return [
        Choice("backbone.norm", "gn", "without classifier weights a frozen batch norm has no statistics"),
        Choice("backbone.frozen_nodes", None, "without classifier weights every layer has to learn"),
    ]


def anchor_rules(data: Fingerprint, size: InputSize, levels: Sequence[int] = ()) -> list[Choice]:
    """Return anchors that fit the boxes at all training sizes. `levels` are the strides of a feature pyramid's maps."""
    grown = np.asarray(size.train_sides)[:, None]
    count = len(data.widths)
    sample = np.linspace(0, count - 1, min(count, SAMPLED)).astype(int)
    widths, heights = (grown * data.widths[sample]).ravel(), (grown * data.heights[sample]).ravel()
    shapes = fit_pyramid_anchors(widths, heights, levels) if levels else fit_anchors(widths, heights, size.stride)
    placed = placed_recall(widths, heights, levels or [size.stride], shapes)
    why = (
        f"clustered; {shapes.recall:.0%} of the objects fit an anchor (IoU {MIN_IOU} or more) that is centred on them, "
        f"{placed:.0%} one at its place in the map"
    )
    return [
        Choice("proposals.scales", list(shapes.scales), why),
        Choice("proposals.aspects", list(shapes.aspects), "height / width, clustered like the scales"),
    ]


def proposal_rules(data: Fingerprint, machine: Machine, parts: Parts, size: InputSize) -> list[Choice]:
    """Return anchors that fit the boxes, and proposal counts that fit the objects per image."""
    stride = size.stride
    levels: tuple[int, ...] = ()
    if parts.pyramid:
        finest = _finest_level(machine) if parts.nodes else LEVELS[0]
        levels = tuple(level for level in LEVELS if level >= finest)
    many = max(300, min(1000, 10 * data.most_objects), 2 * data.most_objects)
    before_nms = [
        Choice("proposals.pre_nms_train", 12000, "as published; fewer boxes would all be on easy objects"),
        Choice("proposals.pre_nms_test", 12000, "rare small objects rank behind thousands of other boxes"),
    ]
    rpn = [Choice("proposals.channels", 256, "enough for small backbones; the paper's 512 are for VGG16")]
    if parts.pyramid:
        before_nms = [
            Choice("proposals.pre_nms_train", 2000, "as published, from each level"),
            Choice("proposals.pre_nms_test", 2000, "from each level"),
        ]
        rpn = [Choice("proposals.channels", 128 if machine.device == "cpu" else 256, "as wide as the levels")]
    elif stride < COARSE:
        rpn = [
            Choice("proposals.channels", 128, "as wide as the joined map"),
            Choice(
                "proposals.separable",
                True,
                f"on a map of stride {stride} a dense 3x3 would cost as much as the backbone",
            ),
        ]
    return [
        *anchor_rules(data, size, levels),
        *rpn,
        Choice("proposals.min_size", min(2.0, round(data.thinnest / 2, 2)), "a larger limit would lose small objects"),
        *before_nms,
        Choice("proposals.top_k_train", 2 * many, "enough background to sample from"),
        Choice("proposals.top_k_test", many, f"objects in one image: at most {data.most_objects}"),
    ]


def head_rules(parts: Parts, stride: int) -> list[Choice]:
    """Return the size of the head and the RoIs for its training. A head without rules keeps its defaults."""
    background = Choice("sampling.background_iou_low", 0.0, "with few objects nearly all background has IoU 0")
    exact = Choice("head.pooling", "align", "bins rounded to the stride make boxes inexact")
    if parts.head in {"rfcn", "deformable_rfcn"}:
        return [
            Choice("head.k", 3, "RoIs have few cells; k = 7 is for objects of half the image"),
            Choice("head.channels", 256, "the backbone's map has few channels"),
            *([exact] if parts.head == "rfcn" else []),
            Choice("sampling.rois_per_image", 256, "RoIs cost almost nothing in this head"),
            background,
        ]
    if parts.head == "light_head":
        short = Choice("head.kernel", 7, "longer kernels on a fine map would cost more than the backbone")
        return [
            *([short] if stride < COARSE or parts.pyramid else []),
            Choice("head.mid_channels", 64, "the paper's width for small backbones"),
            Choice("head.fc_channels", 512, "a quarter of the paper's width is enough for small data sets"),
            Choice("sampling.rois_per_image", 256, "RoIs cost little in this head"),
            background,
        ]
    rois = Choice("sampling.rois_per_image", 128, "128 RoIs of an image, a quarter of them objects")
    if parts.head == "fast_rcnn":
        return [
            Choice("head.pooling", "roi_align", "bins rounded to the stride make boxes inexact"),
            Choice("backbone.tail", "fc", "two layers for each RoI"),
            Choice("backbone.tail_channels", 512, "half of the paper's width is enough for small data sets"),
            rois,
            background,
        ]
    return [rois, background]


def postprocess_rules(data: Fingerprint) -> list[Choice]:
    """Return the NMS threshold from the overlap of objects of one class, and the limits on detections."""
    nms = round(min(0.6, max(0.4, data.overlap + 0.1)), 2)
    most = max(100, 2 * data.most_objects)
    return [
        Choice(
            "postprocess.nms_iou",
            nms,
            f"99 of 100 objects have an IoU of at most {data.overlap:.2f} with another of their class",
        ),
        Choice("postprocess.box_voting", VOTING_IOU, "the mean of similar boxes of an object fits its edges better"),
        Choice("postprocess.score_threshold", 0.001, "average precision counts every rank; for pictures use 0.5"),
        Choice("postprocess.max_per_image", most, f"objects in one image: at most {data.most_objects}"),
    ]


def optimizer_rules(parts: Parts, images: int) -> list[Choice]:
    """Return the learning rates of AdamW, or of SGD if the user chose it, with gradient clipping and cosine decay.

    `docs/plan.md` has the measurements. AdamW moves the weights of every layer by about the same amount. The new
    convolutions of the RPN and of R-FCN start random, so they get a larger rate.
    """
    if parts.optimizer == "adamw":
        rate = round(ADAMW_RATE * math.sqrt(images / ADAMW_IMAGES), 6)
        chosen = [Choice("optimizer.lr", rate, f"AdamW: {ADAMW_RATE} x sqrt({images} images a step / {ADAMW_IMAGES})")]
        new = {"proposals": parts.proposals == "rpn", "head": parts.head in NEW_HEADS}
        factors = {part: NEW_FACTOR for part, is_new in new.items() if is_new}
        if factors:
            why = "new convolutions start random and have few steps to learn"
            chosen.append(Choice("optimizer.lr_factors", factors, why))
    else:
        each = 0.005 if parts.head in NEW_HEADS or not parts.weights else 0.0025
        chosen = [Choice("optimizer.lr", round(each * images, 6), f"{each} for each of {images} images a step")]
    return [
        *chosen,
        Choice("optimizer.clip_norm", 10.0, "one hard image must not change the weights too much"),
        Choice("schedule.decay", "cosine", "the best schedule that fits any number of steps"),
    ]


def images_per_step(data: Fingerprint, machine: Machine) -> Choice:
    """Return few images per step for a CPU, more for a GPU; never more than the training split has."""
    images, why = (2, "many small steps") if machine.device == "cpu" else (8, "fewer would leave the GPU idle")
    return Choice("trainer.images_per_step", min(images, data.num_images), why)


def machine_rules(data: Fingerprint, machine: Machine) -> list[Choice]:
    """Return precision and number of loader workers."""
    precision, has = ("bf16", "has") if machine.fast_bf16 else ("fp32", "has no")
    if machine.device == "cuda" or machine.cores > 4:
        workers, why = min(8, machine.cores - 1), f"{machine.cores} cores"
    elif data.megapixels >= LARGE and machine.cores > 1:
        workers, why = 1, f"images of {data.megapixels:.0f} million pixels take long to decode"
    else:
        workers, why = 0, "decoding needs little time; all cores are for the network"
    return [
        Choice("trainer.precision", precision, f"this {machine.device.upper()} {has} bf16 arithmetic"),
        Choice("trainer.workers", workers, why),
    ]


def plan_settings(data: Fingerprint, machine: Machine, parts: Parts, given: Given) -> list[Choice]:
    """Return every planned setting except those that depend on the time of a step."""
    size, chosen = input_rules(data, machine, given)
    images = images_per_step(data, machine)
    return [
        *chosen,
        *backbone_rules(parts, machine, size.stride, given),
        *neck_rules(parts, machine),
        *(proposal_rules(data, machine, parts, size) if parts.proposals == "rpn" else []),
        *head_rules(parts, size.stride),
        *postprocess_rules(data),
        images,
        *optimizer_rules(parts, given.images_per_step or images.value),
        *machine_rules(data, machine),
    ]


def _finest_level(machine: Machine) -> int:
    """Return the stride of a pyramid's finest level."""
    return 8 if machine.device == "cpu" else 4
