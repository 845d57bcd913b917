"""Where images and boxes come from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from detector.configs.missing import MISSING


class BoxBase(Enum):
    """Where a VOC annotation counts pixels from: 1 as published, 0 as some tools write, or decided from the files."""

    auto = "auto"
    one = "one"
    zero = "zero"


@dataclass
class DatasetConfig:
    kind: str = MISSING
    train: str = MISSING  # split to train on
    test: str = MISSING  # split to evaluate on


@dataclass
class VOCDatasetConfig(DatasetConfig):
    """Pascal VOC, or any folder laid out like it."""

    kind: str = "voc"
    root: str = "VOCdevkit"  # holds VOC2007/, VOC2012/; or, for splits without a year, Annotations/ and its siblings
    train: str = "2007_trainval"  # year_split, several joined by +; or just a split
    test: str = "2007_test"
    classes: list[str] | None = None  # None: VOC's 20 if the annotations use only those, otherwise discovered
    box_base: BoxBase = BoxBase.auto


@dataclass
class COCODatasetConfig(DatasetConfig):
    """COCO-format JSON annotations."""

    kind: str = "coco"
    train: str = MISSING  # path of the annotation file
    test: str = MISSING
    train_images: str = MISSING  # folder
    test_images: str = MISSING


@dataclass
class SyntheticDatasetConfig(DatasetConfig):
    """Seeded shapes on texture; needs no files. A split is a number of images: the two never share one."""

    kind: str = "synthetic"
    train: str = "200"
    test: str = "100"
    height: int = 96
    width: int = 128
    seed: int = 0
