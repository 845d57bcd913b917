"""`detector inspect`: find all faults and oddities in a folder of pictures, before a long training."""

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
from detector.datasets.inspection import Inspection, drawn_before, inspect
from detector.datasets.sample import Annotation, Sample
from detector.datasets.tar_shards import File
from detector.datasets.writers.sides import Side
from detector.datasets.writers.voc import write_voc
from detector.pipeline.data import training_view
from detector.pipeline.planning.fingerprint import take_fingerprint
from detector.pipeline.planning.machine import inspect_machine
from detector.pipeline.planning.rules import Parts, input_rules, proposal_rules
from detector.pipeline.run_folder import pick_device
from detector.proposals.anchors import base_anchors
from detector.tools.report.dataset_page import render

log = logging.getLogger("detector")

STRIDE = 16  # of the published networks' feature maps
NUM_SAMPLED = 6  # pictures drawn as training samples
EPOCHS = 2  # samples of each picture

HELP = """\
usage: detector inspect data=FOLDER [output=FOLDER] [fix=FOLDER] [augment=true] [stride=N] [key=value ...]

Checks every picture and box of a folder for faults and for oddities. Nothing in the folder is changed.
  detector inspect data=photos                    lines on the screen
  detector inspect data=photos output=report      also report/inspection.html and report/inspection.json
  detector inspect data=photos output=report augment=true
                                                  the page also shows some training samples
  detector inspect data=photos fix=mended         a corrected copy as a VOC tree, pictures included

dataset.format, train, test, classes, rename ... are the settings of dataset=auto. Objects are compared with the input
size, stride and anchors that `detector plan` chooses; input.test_short_side, input.max_side and stride replace these.
augment=true shows the effect of input.flip, flip_vertical, color_jitter, crop, mosaic, scale_jitter and the plan's
short_sides.
Exit code 1 if there are faults.
"""


class PlannedMap(NamedTuple):
    """The input size, stride and anchors, with which object sizes are compared."""

    stride: int  # of the feature map, in pixels of the input
    short_side: int
    max_side: int
    short_sides: list[int]  # in training
    anchors: Tensor  # [A, 4] pixels of the input


def run_inspect(
    data: Path, output: Path | None, fix: Path | None, stride: int | None, overrides: Sequence[str], *, augment: bool
) -> bool:
    """Print the faults and oddities in `data`, write the page and the corrected copy. Return True if there are faults.

    With `stride` None the plan's stride is used. With `augment` the page also draws training samples.

    Raises ConfigError for wrong settings, ValueError for a folder that cannot be read at all.
    """
    config = load_config(["dataset=auto", "proposals=rpn", *overrides])
    dataset = config.dataset
    if not isinstance(dataset, schema.AutoDatasetConfig):
        raise ConfigError("detector inspect finds the format itself; remove dataset=...")
    dataset.root = str(data)
    folder = open_folder(dataset, leave_out_faulty=True)
    planned = planned_map(folder.train, config.input, {word.partition("=")[0] for word in overrides}, stride)
    config.input.short_sides, config.input.max_side = planned.short_sides, planned.max_side
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
        samples = training_samples(folder.train, found, config) if augment else []
        text = render(found, {"train": folder.train, "test": folder.test}, samples)
        page.write_text(text, encoding="utf-8", errors="backslashreplace")  # paths may have other bytes than UTF-8
        log.info("open %s in a browser", page)
    if fix is not None:
        write_fixed(fix, folder, found)
    return bool(found.faults)


def planned_map(
    split: FolderDataset, settings: schema.InputConfig, keys: Collection[str], stride: int | None
) -> PlannedMap:
    """Return the plan's input size, stride and anchors for a training split. `settings` under `keys` replace them.

    For a split without objects, return the values of the published networks.
    """
    try:
        data = take_fingerprint(split.annotations, split.classes)
    except ValueError:
        rpn, stride = schema.RPNConfig(), stride or STRIDE
        anchors = base_anchors(stride, tuple(rpn.scales), tuple(rpn.aspects))
        return PlannedMap(stride, settings.test_short_side, settings.max_side, settings.short_sides, anchors)
    machine = inspect_machine(pick_device("auto"), None)
    size, planned_stride, choices = input_rules(data, machine)
    value = {choice.key: choice.value for choice in choices}
    size = settings.test_short_side if "input.test_short_side" in keys else size
    max_side = settings.max_side if "input.max_side" in keys else value["input.max_side"]
    short_sides = settings.short_sides if "input.short_sides" in keys else value["input.short_sides"]
    stride = stride or planned_stride
    one_map = Parts("fast_rcnn", "rpn", "adamw", weights=True, nodes={})
    value |= {choice.key: choice.value for choice in proposal_rules(data, machine, one_map, size, stride)}
    anchors = base_anchors(stride, tuple(value["proposals.scales"]), tuple(value["proposals.aspects"]))
    return PlannedMap(stride, size, max_side, short_sides, anchors)


def training_samples(split: FolderDataset, found: Inspection, config: schema.Config) -> list[Sample]:
    """Return training samples of some pictures, each in several epochs, as the settings of `input` produce them."""
    dataset = config.dataset
    assert isinstance(dataset, schema.AutoDatasetConfig)
    skipping = replace(dataset, on_unreadable=schema.OnUnreadable.skip)  # the other pictures of a mosaic
    view = training_view(replace(config, dataset=skipping), split, None)
    indices = [i for name, i in found.examples if name == "train" and split.files[i] not in found.unusable]
    return [view[epoch, index] for index in indices[:NUM_SAMPLED] for epoch in range(EPOCHS)]


def write_fixed(path: Path, folder: Folder, found: Inspection) -> None:
    """Write a VOC tree without unreadable pictures, unusable objects and duplicate boxes.

    A picture of both splits, under any name, stays in the test split only, so that the score is of pictures that
    training has not seen. Of copies with the same boxes in one split, the first stays.

    Raises ValueError if `path` is neither new nor an empty folder.
    """
    usable, tested = (
        [index for index, file in enumerate(split.files) if file not in found.unusable]
        for split in (folder.train, folder.test)
    )
    contents = {found.contents[folder.test.files[index]] for index in tested}
    trained = [index for index in usable if found.contents[folder.train.files[index]] not in contents]
    train, test = _fixed("train", folder.train, trained, found), _fixed("test", folder.test, tested, found)
    for count, what in (
        (len(usable) - len(trained), "pictures are in both splits; the copy has them in the test split only"),
        (len(trained) - len(train.files), "training pictures repeat another, with the same boxes, and are left out"),
        (len(tested) - len(test.files), "test pictures repeat another, with the same boxes, and are left out"),
        *((count, f"faulty boxes are corrected: {rule}") for rule, count in folder.corrected.items()),
    ):
        if count:
            log.warning("%s: %d %s", path, count, what)
    for line in write_voc(path, [train, test], folder.train.classes):
        log.warning("%s: %s", path, line)
    log.info(
        "%s: %d pictures with %d objects; %d faults are corrected, %d removed",
        path,
        len(train.files) + len(test.files),
        sum(len(item.boxes) for side in (train, test) for item in side.annotations),
        sum(folder.corrected.values()),
        len(found.faults) - sum(folder.corrected.values()),
    )


def _fixed(name: str, split: FolderDataset, indices: Sequence[int], found: Inspection) -> Side:
    """Return the pictures at `indices`, without boxes drawn twice and without copies that have the same boxes."""
    kept: dict[tuple[str, bytes], tuple[Annotation, File]] = {}
    for index in indices:
        item, file = _without_duplicates(split.annotations[index]), split.files[index]
        objects = torch.cat((item.boxes, item.labels[:, None].float()), 1).numpy().tobytes()
        kept.setdefault((found.contents[file], objects), (item, file))
    return Side(name, [item for item, _ in kept.values()], [file for _, file in kept.values()])


def _without_duplicates(item: Annotation) -> Annotation:
    """Return the annotation without boxes that repeat an earlier box of the same class."""
    keep = ~drawn_before(item)
    return replace(
        item,
        boxes=item.boxes[keep],
        labels=item.labels[keep],
        difficult=item.difficult[keep],
        truncated=item.truncated[keep],
        occluded=item.occluded[keep],
    )
