"""`detector inspect`: everything that is wrong or odd about a folder of pictures, before hours are spent on it."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from detector.configs import schema
from detector.configs.compose import load_config
from detector.configs.errors import ConfigError
from detector.datasets.build import open_folder
from detector.datasets.folder import Folder, FolderDataset
from detector.datasets.inspection import DUPLICATE_IOU, Inspection, inspect
from detector.datasets.sample import Annotation, Sample
from detector.datasets.writers.sides import Side
from detector.datasets.writers.voc import write_voc
from detector.ops.boxes import iou
from detector.pipeline.data import training_view
from detector.pipeline.planning.fingerprint import take_fingerprint
from detector.pipeline.planning.machine import inspect_machine
from detector.pipeline.planning.rules import input_rules, proposal_rules
from detector.pipeline.run_folder import pick_device
from detector.proposals.anchors import base_anchors
from detector.tools.report.dataset_page import render

log = logging.getLogger("detector")

STRIDE = 16  # of the published networks' feature maps
SEEN = 6  # pictures that are drawn as training sees them
EPOCHS = 2  # how often each

HELP = """\
usage: detector inspect data=FOLDER [output=FOLDER] [fix=FOLDER] [augment=true] [stride=N] [key=value ...]

Looks at every picture and box of a folder: faults, and what is only odd. Nothing in the folder is changed.
  detector inspect data=photos                    lines on the screen
  detector inspect data=photos output=report      report/inspection.html and report/inspection.json too
  detector inspect data=photos output=report augment=true
                                                  the page also draws some pictures as training sees them
  detector inspect data=photos fix=mended         a corrected copy as a VOC tree, pictures included

dataset.format, train, test, classes, rename ... are those of dataset=auto. Objects are judged by the input size, the
stride and the anchors that `detector plan` chooses; input.test_short_side, input.max_side and stride replace these.
augment=true draws what input.flip, flip_vertical, color_jitter and the plan's short_sides make of a picture.
Exit code 1 if there are faults.
"""


class PlannedMap(NamedTuple):
    """What decides how large objects are for the network."""

    stride: int  # pixels of the input
    short_side: int
    max_side: int
    short_sides: list[int]  # of training
    anchors: Tensor  # [A, 4] pixels of the input


def run_inspect(
    data: Path, output: Path | None, fix: Path | None, stride: int | None, overrides: Sequence[str], *, augment: bool
) -> bool:
    """Prints what was found in `data`, and writes the page and the corrected copy; returns whether there are faults.

    `stride` None is the plan's. With `augment` the page draws pictures as training sees them.

    Raises ConfigError for settings that cannot work, ValueError for a folder that cannot be read at all.
    """
    config = load_config(["dataset=auto", *overrides])
    dataset = config.dataset
    if not isinstance(dataset, schema.AutoDatasetConfig):
        raise ConfigError("detector inspect reads any folder by itself; leave dataset=... out")
    dataset.root = str(data)
    folder = open_folder(dataset, leave_out_faulty=True)
    planned = planned_map(folder.train, config.input, {word.partition("=")[0] for word in overrides}, stride)
    config.input.short_sides = planned.short_sides
    found = inspect(
        folder,
        stride=planned.stride,
        short_side=planned.short_side,
        max_side=planned.max_side,
        anchors=planned.anchors,
    )
    print(found.text())
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "inspection.json").write_text(json.dumps(found.to_json(), indent=1), encoding="utf-8")
        page = output / "inspection.html"
        seen = seen_in_training(folder.train, found, config) if augment else []
        page.write_text(render(found, {"train": folder.train, "test": folder.test}, seen), encoding="utf-8")
        log.info("open %s in a browser", page)
    if fix is not None:
        write_fixed(fix, folder, found)
    return bool(found.faults)


def planned_map(
    side: FolderDataset, given: schema.InputConfig, keys: Collection[str], stride: int | None
) -> PlannedMap:
    """The plan's map and anchors for a training split; settings of `keys` replace the plan's.

    Without objects it is the published networks'.
    """
    try:
        data = take_fingerprint(side.annotations, side.classes)
    except ValueError:
        rpn, stride = schema.RPNConfig(), stride or STRIDE
        anchors = base_anchors(stride, tuple(rpn.scales), tuple(rpn.aspects))
        return PlannedMap(stride, given.test_short_side, given.max_side, given.short_sides, anchors)
    size, planned_stride, choices = input_rules(data, inspect_machine(pick_device("auto"), None))
    value = {choice.key: choice.value for choice in choices}
    size = given.test_short_side if "input.test_short_side" in keys else size
    max_side = given.max_side if "input.max_side" in keys else value["input.max_side"]
    short_sides = given.short_sides if "input.short_sides" in keys else value["input.short_sides"]
    stride = stride or planned_stride
    value |= {choice.key: choice.value for choice in proposal_rules(data, size, stride)}
    anchors = base_anchors(stride, tuple(value["proposals.scales"]), tuple(value["proposals.aspects"]))
    return PlannedMap(stride, size, max_side, short_sides, anchors)


def seen_in_training(side: FolderDataset, found: Inspection, config: schema.Config) -> list[Sample]:
    """Some training samples, each picture in several epochs, as the settings of `input` draw them."""
    view = training_view(config, side, None)
    places = [at for name, at in found.examples if name == "train" and side.files[at] not in found.unusable][:SEEN]
    return [view[epoch, at] for at in places for epoch in range(EPOCHS)]


def write_fixed(path: Path, folder: Folder, found: Inspection) -> None:
    """A VOC tree without what is faulty: pictures that cannot be read, objects that cannot be used, boxes drawn twice.

    Raises ValueError if there is something at `path`.
    """
    sides = [_fixed("train", folder.train, found), _fixed("test", folder.test, found)]
    for line in write_voc(path, sides, folder.train.classes):
        log.warning("%s: %s", path, line)
    log.info(
        "%s: %d pictures with %d objects; %d faults are left out",
        path,
        sum(len(side.files) for side in sides),
        sum(len(item.boxes) for side in sides for item in side.annotations),
        len(found.faults),
    )


def _fixed(name: str, side: FolderDataset, found: Inspection) -> Side:
    broken = found.unusable
    kept = [at for at, file in enumerate(side.files) if file not in broken]
    return Side(name, [_drawn_once(side.annotations[at]) for at in kept], [side.files[at] for at in kept])


def _drawn_once(item: Annotation) -> Annotation:
    """The annotation without boxes that repeat an earlier one of their class."""
    same = (torch.triu(iou(item.boxes, item.boxes), diagonal=1) >= DUPLICATE_IOU) & (
        item.labels[:, None] == item.labels[None]
    )
    keep = ~same.any(0)
    return replace(
        item,
        boxes=item.boxes[keep],
        labels=item.labels[keep],
        difficult=item.difficult[keep],
        truncated=item.truncated[keep],
        occluded=item.occluded[keep],
    )
