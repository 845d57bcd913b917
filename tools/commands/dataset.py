"""`detector dataset`: convert any folder of pictures and annotations to VOC, COCO, YOLO or tar shards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from detector.configs import schema
from detector.configs.compose import load_config
from detector.configs.errors import ConfigError
from detector.datasets.build import open_folder, readable_part
from detector.datasets.folder import FolderDataset
from detector.datasets.readable import Subset
from detector.datasets.writers.coco import write_coco
from detector.datasets.writers.shards import write_shards
from detector.datasets.writers.sides import Side
from detector.datasets.writers.voc import write_voc
from detector.datasets.writers.yolo import write_yolo

log = logging.getLogger("detector")

HELP = """\
usage: detector dataset source=FOLDER output=FOLDER format=voc|coco|yolo|shards [dataset.KEY=value ...]

Reads any folder of pictures and annotations and writes a new folder, pictures included. The source does not change.
shards are tar files of the WebDataset format, each up to 1 GB: a picture and its VOC XML file have the same name.
  detector dataset source=photos output=photos_voc format=voc
  detector dataset source=photos output=photos_tar format=shards
  detector dataset source=photos output=pets format=coco dataset.classes=[cat,dog] dataset.rename={catt:cat}

dataset.classes, rename, train, test, val_fraction, format, strict ... are the settings of dataset=auto.
"""

WRITERS: dict[str, Callable[[Path, Sequence[Side], Sequence[str]], list[str]]] = {
    "voc": write_voc,
    "coco": write_coco,
    "yolo": write_yolo,
    "shards": write_shards,
}


def run_dataset(source: Path, output: Path, format_: str, overrides: Sequence[str]) -> None:
    """Convert the folder at `source` and write it to `output`.

    Raises ConfigError for wrong settings, ValueError for a folder that cannot be read or written.
    """
    if format_ not in WRITERS:
        raise ConfigError(f"format={format_}: expected one of {', '.join(WRITERS)}")
    config = load_config(["dataset=auto", *overrides]).dataset
    if not isinstance(config, schema.AutoDatasetConfig):
        raise ConfigError("detector dataset finds the format itself; remove dataset=...")
    config.root = str(source)
    folder = open_folder(config)
    sides = [_readable_side(config, "train", folder.train), _readable_side(config, "test", folder.test)]
    for line in WRITERS[format_](output, sides, folder.train.classes):
        log.warning("%s: %s", output, line)
    log.info("%s: %d pictures written as %s", output, sum(len(side.files) for side in sides), format_)


def _readable_side(config: schema.AutoDatasetConfig, name: str, split: FolderDataset) -> Side:
    """Return a split after the check of its pictures: boxes of a picture of another size would be wrong in YOLO."""
    kept = readable_part(config, split, name)
    files = [split.files[index] for index in kept.indices] if isinstance(kept, Subset) else split.files
    return Side(name, kept.annotations, files)
