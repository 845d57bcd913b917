"""One Pascal VOC annotation file: read as it stands, then checked and made into boxes and labels."""

from __future__ import annotations

import difflib
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from detector.datasets.corners import half_open
from detector.datasets.sample import Annotation

FLAGS = ("difficult", "truncated", "occluded")
NO = {"", "0", "0.0", "false", "no", "unspecified"}


@dataclass(slots=True)
class RawAnnotation:
    """An annotation file as it stands: corners inclusive, counted from the file's own base."""

    path: Path
    size: tuple[int, int] | None = None  # width, height; None where absent or zero
    names: list[str] = field(default_factory=list)
    corners: list[list[float]] = field(default_factory=list)  # xmin, ymin, xmax, ymax
    flags: list[list[bool]] = field(default_factory=list)  # difficult, truncated, occluded
    absent: set[str] = field(default_factory=set)  # optional tags that the file, or some object in it, lacks


def read_annotation(path: Path) -> RawAnnotation:
    """The file's content. Raises ValueError naming the file, and the object, that cannot be read."""
    try:
        root = ET.fromstring(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such annotation; write one, without objects if the image has none") from error
    except (ET.ParseError, OSError) as error:
        raise ValueError(f"{path}: not readable as XML ({error}); restore the file") from error
    raw = RawAnnotation(path, _size(root, path))
    if raw.size is None:
        raw.absent.add("size")
    for number, item in enumerate(root.findall("object")):
        box = item.find("bndbox")
        texts = [None if box is None else box.findtext(key) for key in ("xmin", "ymin", "xmax", "ymax")]
        try:
            raw.corners.append([float(text or "") for text in texts])
        except ValueError as error:
            raise ValueError(
                f"{path}: object {number} has no <bndbox> with four numbers (xmin ymin xmax ymax: {texts}); "
                "correct or remove the object"
            ) from error
        raw.names.append((item.findtext("name") or "").strip())
        flags = [item.findtext(tag) for tag in FLAGS]
        raw.absent |= {tag for tag, text in zip(FLAGS, flags, strict=True) if text is None}
        raw.flags.append([(text or "").strip().lower() not in NO for text in flags])
    return raw


def _size(root: ET.Element, path: Path) -> tuple[int, int] | None:
    size = root.find("size")
    if size is None:
        return None
    texts = size.findtext("width"), size.findtext("height")
    try:
        width, height = (int(float(text or 0)) for text in texts)
    except ValueError as error:
        raise ValueError(f"{path}: <size> has width and height {texts}; expected two numbers; correct it") from error
    return (width, height) if width > 0 and height > 0 else None


def check_annotation(raw: RawAnnotation, width: int, height: int, classes: Sequence[str], base: int) -> list[str]:
    """What is wrong with a file's objects, in an image of the given size, one message for each."""
    problems = []
    for number, (name, corners) in enumerate(zip(raw.names, raw.corners, strict=True)):
        where = f"{raw.path}: object {number}"
        xmin, ymin, xmax, ymax = corners
        told = f"(xmin, ymin, xmax, ymax) = ({xmin:g}, {ymin:g}, {xmax:g}, {ymax:g})"
        if name not in classes:
            close = difflib.get_close_matches(name, classes, n=1, cutoff=0.5)
            nearest = f"did you mean {close[0]!r}" if close else f"known: {', '.join(classes)}"
            problems.append(f"{where} has the unknown class {name!r}; {nearest}; correct it or extend dataset.classes")
        # In principle xmin == xmax is one pixel wide; the published files have no such box, broken ones do.
        if not (xmax > xmin and ymax > ymin):
            problems.append(f"{where} has no area or is inverted, {told}; correct or remove it")
        elif base == 1 and min(xmin, ymin) < 1:
            problems.append(
                f"{where} begins before pixel 1, {told}, but these boxes count from 1; "
                "correct it, or set dataset.box_base=zero if all files count from 0"
            )
        # Tools that count from 0 often write the image's size as the maximum: that much is clipped.
        elif min(xmin, ymin) < base or xmax > width or ymax > height:
            problems.append(f"{where} lies outside the image of {width}x{height}, {told}; correct or remove it")
    return problems


def to_annotation(
    raw: RawAnnotation, image_id: str, width: int, height: int, classes: Sequence[str], base: int
) -> Annotation:
    """The annotation of a file in which `check_annotation` found nothing wrong."""
    boxes = half_open(torch.tensor(raw.corners, dtype=torch.float32).reshape(-1, 4), base)
    flags = torch.tensor(raw.flags, dtype=torch.bool).reshape(-1, len(FLAGS))
    return Annotation(
        image_id=image_id,
        width=width,
        height=height,
        boxes=boxes.clamp(max=torch.tensor([width, height, width, height], dtype=torch.float32)),
        labels=torch.tensor([classes.index(name) + 1 for name in raw.names], dtype=torch.int64),
        difficult=flags[:, 0],
        truncated=flags[:, 1],
        occluded=flags[:, 2],
    )
