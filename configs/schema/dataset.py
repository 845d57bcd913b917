"""Where images and boxes come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from detector.configs.errors import require
from detector.configs.missing import MISSING
from detector.configs.paths import path_setting


class BoxBase(Enum):
    """Where a VOC annotation counts pixels from: 1 as published, 0 as some tools write, or decided from the files."""

    auto = "auto"  # decided from all files together
    one = "one"  # as published
    zero = "zero"


class PictureCheck(Enum):
    """How every picture is checked before the first one is used."""

    headers = "headers"  # size and end of the file: some kilobytes of each picture
    decode = "decode"  # every pixel
    none = "none"  # not at all: a broken picture is found when it is used


class OnUnreadable(Enum):
    """What happens if a picture cannot be read."""

    stop = "stop"  # the program ends before the first step and names all such pictures
    skip = "skip"  # another image takes its place in training; a test leaves it out


@dataclass
class DatasetConfig:
    kind: str = MISSING
    train: str = MISSING  # split to train on
    test: str = MISSING  # split to evaluate on


@dataclass
class FilesDatasetConfig(DatasetConfig):
    """What all datasets of picture files share."""

    strict: bool = False  # refuse what is otherwise corrected and reported: boxes over the edge, classes left out
    bit_depth: int | None = None  # of 16-bit and float pictures: 12 says 0 to 4095; None: decided from some of them
    check: PictureCheck = PictureCheck.headers  # how closely every picture is looked at before the first step
    keep_checks: bool = True  # keep what the check found in the user's cache folder, for the next start
    on_unreadable: OnUnreadable = OnUnreadable.stop  # what a picture that cannot be read does


@dataclass
class VOCDatasetConfig(FilesDatasetConfig):
    """Pascal VOC, or any folder laid out like it."""

    kind: str = "voc"
    root: str = path_setting("VOCdevkit")  # holds VOC2007/; or, for splits without a year, Annotations/ and so on
    train: str = "2007_trainval"  # year_split, several joined by +; or just a split
    test: str = "2007_test"
    classes: list[str] | None = None  # None: VOC's 20 if the annotations use only those, otherwise discovered
    box_base: BoxBase = BoxBase.auto  # where the XML counts pixels from


class FolderFormat(Enum):
    """What annotates the pictures of a folder."""

    auto = "auto"  # what is found
    voc = "voc"  # XML and image lists
    labelimg = "labelimg"  # VOC's XML without lists
    coco = "coco"
    yolo = "yolo"
    labelme = "labelme"
    cvat = "cvat"  # XML for images
    label_studio = "label_studio"
    csv = "csv"
    open_images = "open_images"


@dataclass
class AutoDatasetConfig(FilesDatasetConfig):
    """Any folder of pictures and annotations: format, classes and splits are found."""

    kind: str = "auto"
    root: str = path_setting("data")  # folder of pictures and annotations
    also: list[str] = field(default_factory=list)  # further folders that are joined to it, each in its own format
    format: FolderFormat = FolderFormat.auto  # what annotates the pictures
    train: str = "auto"  # splits of the folder, several joined by +; auto: as found, or divided by content
    test: str = "auto"
    classes: list[str] | None = None  # these alone, in this order; None: all that are found
    rename: dict[str, str] = field(default_factory=dict)  # classes: {catt: cat}; two that get one name are merged
    box_base: BoxBase = BoxBase.auto  # of VOC's XML
    columns: dict[str, str] = field(default_factory=dict)  # of a CSV with other names: {picture: img, class: kind}
    val_fraction: float = 0.2  # of a folder without a pair of splits, to test on
    split_file: str | None = path_setting(None)  # a split that an earlier run kept

    def __post_init__(self) -> None:
        require(
            0 < self.val_fraction < 1,
            f"dataset.val_fraction is {self.val_fraction}; expected above 0 and below 1",
        )


@dataclass
class COCODatasetConfig(FilesDatasetConfig):
    """COCO-format JSON annotations."""

    kind: str = "coco"
    train: str = path_setting()  # path of the annotation file
    test: str = path_setting()
    train_images: str = path_setting()  # folder
    test_images: str = path_setting()  # folder


@dataclass
class SyntheticDatasetConfig(DatasetConfig):
    """Seeded shapes on texture; needs no files. A split is a number of images: the two never share one."""

    kind: str = "synthetic"
    train: str = "200"
    test: str = "100"
    height: int = 96  # pixels of an image
    width: int = 128  # pixels of an image
    seed: int = 0  # other seeds draw other images
