"""Where images and boxes come from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from detector.configs.missing import MISSING
from detector.configs.paths import path_setting


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
    root: str = path_setting("VOCdevkit")  # holds VOC2007/; or, for splits without a year, Annotations/ and so on
    train: str = "2007_trainval"  # year_split, several joined by +; or just a split
    test: str = "2007_test"
    classes: list[str] | None = None  # None: VOC's 20 if the annotations use only those, otherwise discovered
    box_base: BoxBase = BoxBase.auto


@dataclass
class COCODatasetConfig(DatasetConfig):
    """COCO-format JSON annotations."""

    kind: str = "coco"
    train: str = path_setting()  # path of the annotation file
    test: str = path_setting()
    train_images: str = path_setting()  # folder
    test_images: str = path_setting()


@dataclass
class SyntheticDatasetConfig(DatasetConfig):
    """Seeded shapes on texture; needs no files. A split is a number of images: the two never share one."""

    kind: str = "synthetic"
    train: str = "200"
    test: str = "100"
    height: int = 96
    width: int = 128
    seed: int = 0
