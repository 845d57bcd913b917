"""Pascal VOC folders as downloaded, and any folder laid out like them.

    root/VOC2007/{Annotations,ImageSets/Main,JPEGImages}    splits 2007_trainval, 2007_trainval+2012_trainval, ...
    root/{Annotations,ImageSets/Main,JPEGImages}            splits without a year: trainval, test, ...

Annotations are read once and checked together, so that all their faults are told at once, before training starts.
"""

from __future__ import annotations

import difflib
import logging
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from detector.datasets.images import read_image
from detector.datasets.sample import Annotation

log = logging.getLogger("detector")

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
OPTIONAL_TAGS = ("difficult", "truncated", "occluded")
FAULTS_SHOWN = 10


def half_open(corners: Tensor, base: int) -> Tensor:
    """Boxes [G, 4] xyxy 0-based half-open of inclusive pixel corners [G, 4] counted from `base` (1 in VOC's files).

    The last pixel's far edge is its number plus one minus the base: for VOC only the minima change.
    """
    return corners - corners.new_tensor((base, base, base - 1, base - 1))


@dataclass(slots=True)
class RawAnnotation:
    """One annotation file as it stands: corners inclusive, counted from the file's own base."""

    path: Path
    size: tuple[int, int] | None  # width, height
    names: list[str]
    corners: list[list[float]]
    flags: list[tuple[bool, bool, bool]]  # difficult, truncated, occluded
    absent: set[str] = field(default_factory=set)  # optional tags that some object lacks


class VOCDataset:
    """Images and annotations of one or several splits."""

    classes: tuple[str, ...]
    annotations: Sequence[Annotation]

    def __init__(self, root: Path, split: str, *, classes: Sequence[str] | None, box_base: str = "auto") -> None:
        """`split` is year_name, a bare name, or several joined by +. `classes` None discovers them.

        Raises ValueError for a folder, list, image or annotation that is missing or faulty.
        """
        entries = [entry for part in split.split("+") for entry in _read_split(root, part)]
        repeated = [image_id for image_id, count in Counter(item[0] for item in entries).items() if count > 1]
        if repeated:
            raise ValueError(f"dataset split {split}: image {repeated[0]} is listed {len(repeated)} times or more")
        faults: list[str] = []
        raws = [_parse(folder / "Annotations" / f"{image_id}.xml", faults) for image_id, folder in entries]
        files = _find_images(entries, faults)
        _raise(faults, root)
        self.classes = tuple(classes) if classes is not None else _discover(raws, root)
        base = _decide_base(raws, box_base, root)
        self.annotations = [
            _build(image_id, raw, self.classes, base, faults)
            for (image_id, _), raw in zip(entries, raws, strict=True)
            if raw is not None
        ]
        _raise(faults, root)
        _report_absent(raws, split)
        self.files = files

    def image(self, index: int) -> Tensor:
        """The decoded image [3, H, W] uint8. Raises ValueError if it cannot be read or is not of the stated size."""
        image = read_image(self.files[index])
        expected = self.annotations[index]
        if (image.shape[2], image.shape[1]) != (expected.width, expected.height):
            raise ValueError(
                f"{self.files[index]}: the image is {image.shape[2]}x{image.shape[1]}, its annotation says "
                f"{expected.width}x{expected.height}; boxes would not fit: correct the <size> or the image"
            )
        return image


def _read_split(root: Path, part: str) -> list[tuple[str, Path]]:
    """(image id, folder) of a split, in the list's order."""
    year = re.fullmatch(r"(\d{4})_(.+)", part)
    folder, name = (root / f"VOC{year[1]}", year[2]) if year else (root, part)
    path = folder / "ImageSets" / "Main" / f"{name}.txt"
    if not path.is_file():
        lists = sorted(
            str(item.relative_to(root)) for item in root.glob("**/ImageSets/Main/*.txt") if "_" not in item.stem
        )
        found = f"found {', '.join(lists[:8])}" if lists else "found no ImageSets/Main/*.txt below it"
        raise ValueError(
            f"dataset.root={root}, split {part}: expected the image list {path}, {found}; "
            "`detector download` fetches VOC, a split without a year is looked for in the root itself"
        )
    lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    return [(words[0], folder) for words in lines if len(words) == 1 or words[-1] != "-1"]


def _find_images(entries: list[tuple[str, Path]], faults: list[str]) -> list[Path]:
    """The picture of each entry, by one listing per folder."""
    listings = {folder: {p.name for p in (folder / "JPEGImages").glob("*")} for folder in {item[1] for item in entries}}
    files = []
    for image_id, folder in entries:
        name = next((image_id + suffix for suffix in SUFFIXES if image_id + suffix in listings[folder]), None)
        if name is None:
            faults.append(
                f"{folder / 'JPEGImages' / image_id}.jpg: the image list names it, but there is no such image"
            )
        files.append(folder / "JPEGImages" / (name or f"{image_id}.jpg"))
    return files


def _parse(path: Path, faults: list[str]) -> RawAnnotation | None:
    """One annotation file, or None with its fault noted."""
    try:
        root = ET.fromstring(path.read_bytes())
    except FileNotFoundError:
        faults.append(f"{path}: no such annotation; write one (without objects if there are none)")
        return None
    except (ET.ParseError, OSError) as error:
        faults.append(f"{path}: not readable as XML ({error})")
        return None
    size = root.find("size")
    raw = RawAnnotation(path, None, [], [], [])
    try:
        if size is not None:
            raw.size = (int(float(size.findtext("width", ""))), int(float(size.findtext("height", ""))))
            if min(raw.size) <= 0:
                raw.size = None
        for number, item in enumerate(root.iter("object")):
            box = item.find("bndbox")
            where = f"object {number}"
            raw.names.append((item.findtext("name") or "").strip())
            raw.corners.append([float(box.findtext(key, "")) for key in ("xmin", "ymin", "xmax", "ymax")])  # type: ignore[union-attr]
            texts = [item.findtext(tag) for tag in OPTIONAL_TAGS]
            raw.absent |= {tag for tag, text in zip(OPTIONAL_TAGS, texts, strict=True) if text is None}
            raw.flags.append(tuple((text or "0").strip() not in ("", "0") for text in texts))  # type: ignore[arg-type]
    except (ValueError, AttributeError):
        what = f"{where} has no bndbox with four numbers" if raw.names else "<size> has no two numbers"
        faults.append(f"{path}: {what}; correct the file")
        return None
    return raw


def _discover(raws: Sequence[RawAnnotation | None], root: Path) -> tuple[str, ...]:
    found = Counter(name for raw in raws if raw is not None for name in raw.names)
    if not found:
        raise ValueError(f"dataset.root={root}: no object in {len(raws)} annotations; give dataset.classes")
    if found.keys() <= set(VOC_CLASSES):
        return VOC_CLASSES
    names = tuple(sorted(found))
    log.info("classes discovered in %s: %s", root, ", ".join(f"{name} ({found[name]})" for name in names))
    return names


def _decide_base(raws: Sequence[RawAnnotation | None], box_base: str, root: Path) -> int:
    """1 or 0. Decided over the whole set: a minimum of 0 speaks for 0, a maximum equal to the size for 1."""
    if box_base != "auto":
        return 1 if box_base == "one" else 0
    zeros = ends = 0
    for raw in raws:
        for corners in raw.corners if raw is not None else []:
            zeros += min(corners[:2]) < 1
            ends += (
                raw is not None and raw.size is not None and (corners[2] >= raw.size[0] or corners[3] >= raw.size[1])
            )
    if zeros and zeros > ends:
        log.info("%s: boxes taken as 0-based (%d begin at 0, %d end at the image's size)", root, zeros, ends)
        return 0
    return 1


def _build(image_id: str, raw: RawAnnotation, classes: Sequence[str], base: int, faults: list[str]) -> Annotation:
    labels = []
    for number, name in enumerate(raw.names):
        if name not in classes:
            close = difflib.get_close_matches(name, classes, n=1)
            nearest = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(classes)}"
            faults.append(f"{raw.path}: object {number} has unknown class {name!r}{nearest}")
        labels.append(classes.index(name) + 1 if name in classes else 0)
    boxes = half_open(torch.tensor(raw.corners, dtype=torch.float32).reshape(-1, 4), base)
    width, height = raw.size or _image_size(raw.path)
    for number, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        corners = raw.corners[number]
        if base == 1 and min(corners[:2]) < 1:
            faults.append(
                f"{raw.path}: object {number} begins at {corners[:2]}, but boxes count from 1; "
                "correct it, or set dataset.box_base=zero if all files count from 0"
            )
        elif not (x2 > x1 and y2 > y1):
            faults.append(f"{raw.path}: object {number} has no area: {corners}; correct or remove it")
        elif x1 < 0 or y1 < 0 or x2 > width + 1 or y2 > height + 1:
            faults.append(
                f"{raw.path}: object {number} {corners} lies outside the image of {width}x{height}; correct it"
            )
    flags = torch.tensor(raw.flags, dtype=torch.bool).reshape(-1, 3)
    return Annotation(
        image_id=image_id,
        width=width,
        height=height,
        boxes=boxes.clamp(max=torch.tensor([width, height, width, height], dtype=torch.float32)),
        labels=torch.tensor(labels, dtype=torch.int64),
        difficult=flags[:, 0],
        truncated=flags[:, 1],
        occluded=flags[:, 2],
    )


def _image_size(annotation: Path) -> tuple[int, int]:
    """Width and height from the picture itself, for an annotation that does not say."""
    for suffix in SUFFIXES:
        path = annotation.parent.parent / "JPEGImages" / (annotation.stem + suffix)
        if path.is_file():
            image = read_image(path)
            return image.shape[2], image.shape[1]
    raise ValueError(f"{annotation}: no <size>, and no image to take it from")


def _report_absent(raws: Sequence[RawAnnotation | None], split: str) -> None:
    absent = Counter(tag for raw in raws if raw is not None for tag in raw.absent)
    if absent:
        told = ", ".join(f"{tag} absent in {count} files" for tag, count in absent.items())
        log.info("%s: %s of %d, taken as 0", split, told, len(raws))


def _raise(faults: list[str], root: Path) -> None:
    if faults:
        more = f"\n  ... and {len(faults) - FAULTS_SHOWN} more" if len(faults) > FAULTS_SHOWN else ""
        shown = "\n  ".join(faults[:FAULTS_SHOWN])
        raise ValueError(shown if len(faults) == 1 else f"{len(faults)} faults in {root}:\n  {shown}{more}")
