"""`detector inspect`: everything that is wrong or odd about a folder of pictures, before hours are spent on it."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from detector.configs import schema
from detector.configs.compose import load_config
from detector.configs.errors import ConfigError
from detector.datasets.build import open_folder
from detector.datasets.folder import Folder, FolderDataset
from detector.datasets.inspection import TWICE, Inspection, inspect
from detector.datasets.sample import Annotation
from detector.datasets.writers.sides import Side
from detector.datasets.writers.voc import write_voc
from detector.ops.boxes import iou
from detector.proposals.anchors import base_anchors
from detector.tools.report.dataset_page import render

log = logging.getLogger("detector")

STRIDE = 16  # of the published networks' feature maps

HELP = """\
usage: detector inspect data=FOLDER [output=FOLDER] [fix=FOLDER] [stride=16] [key=value ...]

Looks at every picture and box of a folder: faults, and what is only odd. Nothing in the folder is changed.
  detector inspect data=photos                    lines on the screen
  detector inspect data=photos output=report      report/inspection.html and report/inspection.json too
  detector inspect data=photos fix=mended         a corrected copy as a VOC tree, pictures included

dataset.format, train, test, classes, rename ... are those of dataset=auto. input.test_short_side and input.max_side say
how large pictures will be, stride how coarse the feature map. Exit code 1 if there are faults.
"""


def run_inspect(data: Path, output: Path | None, fix: Path | None, stride: int, overrides: Sequence[str]) -> bool:
    """Prints what was found in `data`, and writes the page and the corrected copy; returns whether there are faults.

    Raises ConfigError for settings that cannot work, ValueError for a folder that cannot be read at all.
    """
    config = load_config(["dataset=auto", *overrides])
    dataset = config.dataset
    if not isinstance(dataset, schema.AutoDatasetConfig):
        raise ConfigError("detector inspect reads any folder by itself; leave dataset=... out")
    dataset.root = str(data)
    folder = open_folder(dataset, mend=True)
    rpn = schema.RPNConfig()
    found = inspect(
        folder,
        stride=stride,
        short_side=config.input.test_short_side,
        max_side=config.input.max_side,
        anchors=base_anchors(stride, tuple(rpn.scales), tuple(rpn.aspects)),
    )
    print(found.text())
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "inspection.json").write_text(json.dumps(found.to_json(), indent=1), encoding="utf-8")
        page = output / "inspection.html"
        page.write_text(render(found, {"train": folder.train, "test": folder.test}), encoding="utf-8")
        log.info("open %s in a browser", page)
    if fix is not None:
        write_fixed(fix, folder, found)
    return bool(found.faults)


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
    same = (torch.triu(iou(item.boxes, item.boxes), diagonal=1) >= TWICE) & (item.labels[:, None] == item.labels[None])
    keep = ~same.any(0)
    return replace(
        item,
        boxes=item.boxes[keep],
        labels=item.labels[keep],
        difficult=item.difficult[keep],
        truncated=item.truncated[keep],
        occluded=item.occluded[keep],
    )
