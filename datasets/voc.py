"""Pascal VOC folders as downloaded, and any folder with the same layout.

    root/VOC2007/{Annotations,ImageSets/Main,JPEGImages}    splits 2007_trainval, 2007_trainval+2012_trainval, ...
    root/{Annotations,ImageSets/Main,JPEGImages}            splits without a year: trainval, test, ...

All annotations are read and checked when the dataset is built, so all faults are reported at once, before training.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from detector.datasets.annotate import annotate, read_annotated
from detector.datasets.bit_depth import common_depth
from detector.datasets.class_names import odd_classes
from detector.datasets.faults import Fault, raise_faults
from detector.datasets.image_lists import read_list
from detector.datasets.images import list_images
from detector.datasets.records import Record
from detector.datasets.sample import Annotation
from detector.datasets.voc_xml import RawAnnotation, absent_tags, decide_base, read_annotation, to_objects

log = logging.getLogger("detector")

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


class VOCDataset:
    """Images and annotations of one or several splits."""

    classes: tuple[str, ...]
    annotations: Sequence[Annotation]

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        classes: Sequence[str] | None,
        box_base: str = "auto",
        sibling: str | None = None,
        need_images: bool = True,
        strict: bool = False,
        bit_depth: int | None = None,
    ) -> None:
        """`split` is year_name, a name without year, or several joined by +. `box_base` is auto, one or zero.

        Without `need_images`, the pictures may be missing if the annotations state their sizes: scoring result files
        does not read them.

        `classes` None takes them from the annotations. Classes and box base are properties of the whole dataset, so
        the readable annotations of `sibling`, the other one of the train and test splits, count too.

        A box with at most a tenth of its area beyond the edge is clipped; with `strict` it is a fault.

        Raises ValueError for a missing folder or list, and its subclass FaultyDataError with all missing or faulty
        images and annotations.
        """
        entries = read_split(root, split)
        faults: list[Fault] = []
        raws = _read_annotations(entries, faults)
        listings = {folder: list_images(folder / "JPEGImages") for folder in {folder for _, folder in entries}}
        for image_id, folder in entries:
            if need_images and image_id not in listings[folder]:
                missing = folder / "JPEGImages" / f"{image_id}.jpg"
                faults.append(
                    Fault(image_id, f"{missing}: no such image (nor .jpeg, .png ...), but it is in the image list")
                )
        everything = list(raws.values())
        if sibling is not None and (classes is None or box_base == "auto"):
            everything += _read_sibling(root, sibling, {image_id for image_id, _ in entries}, split)
        self.classes = tuple(classes) if classes is not None else _discover_classes(everything, root, faults)
        base = {"one": 1, "zero": 0}.get(box_base)
        if base is None:
            base, reason = decide_base(everything)
            if reason:
                log.info("%s: %s", root, reason)

        records = []
        for image_id, folder in entries:
            raw, path = raws.get(image_id), listings[folder].get(image_id)
            if raw is None or (path is None and need_images):
                continue
            path = path or folder / "JPEGImages" / f"{image_id}.jpg"
            records.append(Record(image_id, path, raw.path, raw.size, tuple(to_objects(raw, base))))
        where = f"{root}, split {split}"
        self.annotations, self.files = annotate(records, self.classes, faults, strict=strict, where=where)
        self.bit_depth = bit_depth or (common_depth(self.files) if need_images else None)
        raise_faults(where, faults)
        absent = absent_tags(list(raws.values()))
        if absent:
            log.info("%s, %s", split, absent)

    def image(self, index: int) -> Tensor:
        """Return the decoded image [3, H, W] uint8. Raises ValueError if it is unreadable or of a wrong size."""
        return read_annotated(self.files[index], self.annotations[index], self.bit_depth)


def read_split(root: Path, split: str) -> list[tuple[str, Path]]:
    """Return (image id, folder) of every image of a split, in the order of the lists.

    Raises ValueError for a missing or empty list, and for an id that occurs twice, since ids must be unique.
    """
    entries = [entry for part in split.split("+") for entry in _read_list(root, part)]
    folder_of: dict[str, Path] = {}
    for image_id, folder in entries:
        if image_id in folder_of:
            raise ValueError(
                f"dataset.root={root}, split {split}: image {image_id} is listed twice (in {folder_of[image_id]} and "
                f"{folder}); image ids must be unique: rename one or remove it from a list"
            )
        folder_of[image_id] = folder
    return entries


def list_path(root: Path, part: str) -> Path:
    """Return the path of the image list of one part of a split. The file may not exist."""
    year = re.fullmatch(r"(\d{4})_(.+)", part)
    folder, name = (root / f"VOC{year[1]}", year[2]) if year else (root, part)
    return folder / "ImageSets" / "Main" / f"{name}.txt"


def _read_list(root: Path, part: str) -> list[tuple[str, Path]]:
    path = list_path(root, part)
    if not path.is_file():
        # Do not offer lists of one class (dog_train.txt) as splits.
        lists = sorted(
            str(item.relative_to(root)) for item in root.glob("**/ImageSets/Main/*.txt") if "_" not in item.stem
        )
        found = f"found {', '.join(lists[:8])}" if lists else "found no ImageSets/Main/*.txt below it"
        raise ValueError(
            f"dataset.root={root}, split {part}: expected the image list {path}, {found}; "
            "download VOC with `detector download`; a split without a year must have its list directly below the root"
        )
    folder = path.parents[2]
    annotations = folder / "Annotations"
    known = {item.stem for item in annotations.iterdir()} if annotations.is_dir() else set()
    return [(image_id, folder) for image_id in read_list(path, known)]


def is_voc(root: Path) -> bool:
    """Return True if a folder is Pascal VOC as published: it has VOC2007 or VOC2012, not only the same layout."""
    return any((root / f"VOC{year}").is_dir() for year in (2007, 2012))


def _read_annotations(entries: Sequence[tuple[str, Path]], faults: list[Fault]) -> dict[str, RawAnnotation]:
    raws = {}
    for image_id, folder in entries:
        try:
            raws[image_id] = read_annotation(folder / "Annotations" / f"{image_id}.xml")
        except ValueError as error:  # noqa: PERF203
            faults.append(Fault(image_id, str(error)))
    return raws


def _read_sibling(root: Path, sibling: str, own_ids: set[str], split: str) -> list[RawAnnotation]:
    """Return the readable annotations of the other split. Its faults are reported when it is read as a dataset."""
    try:
        entries = read_split(root, sibling)
    except ValueError:
        return []
    shared = [image_id for image_id, _ in entries if image_id in own_ids]
    if shared:
        log.warning(
            "%d images are in both %s and %s (first: %s): scores on them say nothing about new images",
            len(shared), split, sibling, shared[0],
        )  # fmt: skip
    return list(_read_annotations([entry for entry in entries if entry[0] not in own_ids], []).values())


def _discover_classes(raws: Sequence[RawAnnotation], root: Path, faults: Sequence[Fault]) -> tuple[str, ...]:
    found = Counter(name for raw in raws for name in raw.names if name)
    if not found:
        raise_faults(str(root), faults)
        raise ValueError(f"dataset.root={root}: no object in {len(raws)} annotations; set dataset.classes")
    if found.keys() <= set(VOC_CLASSES) and is_voc(root):
        return VOC_CLASSES
    names = tuple(sorted(found))
    for line in odd_classes(found):
        log.warning("%s: %s", root, line)
    log.info("classes found in %s: %s", root, ", ".join(f"{name} ({found[name]})" for name in names))
    return names
