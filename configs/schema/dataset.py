"""The source of images and boxes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from detector.configs.missing import MISSING
from detector.configs.paths import LIST_MARK, path_setting


class BoxBase(Enum):
    """The number of the first pixel in VOC annotations: 1 as published, 0 from some tools, or found from the files."""

    auto = "auto"  # found from all files together
    one = "one"  # as published
    zero = "zero"


class PictureCheck(Enum):
    """The check of every picture before the first one is used."""

    headers = "headers"  # size and end of the file: reads a few kilobytes of each picture
    decode = "decode"  # decodes every pixel
    none = "none"  # no check: a broken picture is found when it is used


class OnUnreadable(Enum):
    """The action if a picture cannot be read."""

    stop = "stop"  # the program ends before the first step and names all unreadable pictures
    skip = "skip"  # training uses another image in its place; evaluation leaves it out


@dataclass
class DatasetConfig:
    """Settings of every dataset."""

    kind: str = MISSING
    train: str = MISSING  # split to train on
    test: str = MISSING  # split to evaluate on


@dataclass
class FilesDatasetConfig(DatasetConfig):
    """Settings that all datasets of picture files share."""

    strict: bool = False  # report as a fault what is otherwise corrected: boxes beyond the edge, classes left out
    bit_depth: int | None = None  # bits of 16-bit and float pictures; 12: values 0 to 4095; None: found from samples
    check: PictureCheck = PictureCheck.headers  # the check of every picture before the first step
    keep_checks: bool = True  # store the results of the check in the user's cache folder, for the next start
    on_unreadable: OnUnreadable = OnUnreadable.stop  # the action if a picture cannot be read


@dataclass
class VOCDatasetConfig(FilesDatasetConfig):
    """Pascal VOC, or any folder with the same layout."""

    kind: str = "voc"
    root: str = path_setting("VOCdevkit")  # folder with VOC2007/; or, for splits without a year, with Annotations/ etc.
    train: str = "2007_trainval"  # year_split, several joined by +; or a split without a year
    test: str = "2007_test"
    classes: list[str] | None = None  # None: VOC's 20 if the annotations have no others, else those in the annotations
    box_base: BoxBase = BoxBase.auto  # number of the first pixel in the XML files


class FolderFormat(Enum):
    """The annotation format of a folder."""

    auto = "auto"  # the format that is found
    voc = "voc"  # VOC's XML and image lists
    labelimg = "labelimg"  # VOC's XML without image lists
    coco = "coco"
    yolo = "yolo"
    labelme = "labelme"
    cvat = "cvat"  # CVAT's XML for images
    label_studio = "label_studio"
    csv = "csv"
    open_images = "open_images"
    via = "via"  # JSON or CSV of the VGG Image Annotator


@dataclass
class AutoDatasetConfig(FilesDatasetConfig):
    """Any folder of pictures and annotations. Format, classes and splits are detected."""

    kind: str = "auto"
    root: str = path_setting("data")  # folder of pictures and annotations
    also: list[str] = field(default_factory=list, metadata=LIST_MARK)  # more folders to merge: PATH or [PATH, ...]
    format: FolderFormat = FolderFormat.auto  # format of the annotations
    train: str = "auto"  # splits of the folder, several joined by +; auto: those found, else a split by picture content
    test: str = "auto"
    classes: list[str] | None = None  # classes to use, in the order of their labels; None: all that are found
    rename: dict[str, str] = field(default_factory=dict)  # new class names: {catt: cat}; equal names merge classes
    box_base: BoxBase = BoxBase.auto  # number of the first pixel in VOC's XML files
    columns: dict[str, str] = field(default_factory=dict)  # column names of a CSV: {picture: img, class: kind}
    val_fraction: float = 0.2  # fraction of the pictures to test on, if the folder has no train and test splits
    split_file: str | None = path_setting(None)  # split file of an earlier run


@dataclass
class COCODatasetConfig(FilesDatasetConfig):
    """Annotations in COCO's JSON format."""

    kind: str = "coco"
    train: str = path_setting()  # path of the training annotation file
    test: str = path_setting()  # path of the test annotation file
    train_images: str = path_setting()  # folder of the training images
    test_images: str = path_setting()  # folder of the test images


@dataclass
class SyntheticDatasetConfig(DatasetConfig):
    """Shapes on texture, drawn from a seed; needs no files. A split is a number of images; splits share no image."""

    kind: str = "synthetic"
    train: str = "200"
    test: str = "100"
    height: int = 96  # height of each image in pixels
    width: int = 128  # width of each image in pixels
    seed: int = 0  # seed of the drawn images
