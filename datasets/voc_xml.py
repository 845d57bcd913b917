"""Reads one Pascal VOC annotation file, and turns its content into objects of the common record."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from detector.datasets.box_convention import half_open_corners
from detector.datasets.records import MarkedObject
from detector.datasets.tar_shards import File
from detector.datasets.xml_files import read_xml

FLAGS = ("difficult", "truncated", "occluded")
NO = {"", "0", "0.0", "false", "no", "unspecified"}
CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(slots=True)
class RawAnnotation:
    """The content of an annotation file, unchanged: corners are inclusive, counted from the file's base."""

    path: File
    filename: str = ""  # of the picture; often outdated
    size: tuple[int, int] | None = None  # width, height; None if absent or zero
    names: list[str] = field(default_factory=list)
    corners: list[list[float]] = field(default_factory=list)  # xmin, ymin, xmax, ymax
    flags: list[list[bool]] = field(default_factory=list)  # difficult, truncated, occluded
    absent: set[str] = field(default_factory=set)  # optional tags that the file, or an object in it, does not have


def read_annotation(path: File) -> RawAnnotation:
    """Return the file's content. Raises ValueError naming the file, and the object, that cannot be read."""
    root = read_xml(path)
    if root.tag != "annotation":
        raise ValueError(
            f"{path}: the root element is <{root.tag}>; expected VOC's <annotation>; correct the file or remove it"
        )
    _require_known(root, path)
    raw = RawAnnotation(path, (root.findtext("filename") or "").strip(), _size(root, path))
    if raw.size is None:
        raw.absent.add("size")
    for number, item in enumerate(root.findall("object")):
        _require_flat(item, f"{path}: object {number}")
        boxes = item.findall("bndbox")
        if len(boxes) > 1:
            raise ValueError(f"{path}: object {number} has {len(boxes)} <bndbox>; give each box its own <object>")
        texts = [boxes[0].findtext(key) if boxes else None for key in CORNERS]
        try:
            raw.corners.append([float(text or "") for text in texts])
        except ValueError as error:
            if item.find("robndbox") is not None:
                raise ValueError(
                    f"{path}: object {number} has a turned box (<robndbox>); expected an upright <bndbox>"
                ) from error
            raise ValueError(
                f"{path}: object {number} has no <bndbox> with four numbers (xmin ymin xmax ymax: {texts}); "
                "correct or remove the object"
            ) from error
        raw.names.append((item.findtext("name") or "").strip())
        flags = [item.findtext(tag) for tag in FLAGS]
        raw.absent |= {tag for tag, text in zip(FLAGS, flags, strict=True) if text is None}
        raw.flags.append([(text or "").strip().lower() not in NO for text in flags])
    return raw


def _require_known(root: ET.Element, path: File) -> None:
    """Raise ValueError for elements with boxes, or objects with another name, which would otherwise be ignored."""
    for child in root:
        if not isinstance(child.tag, str) or child.tag == "object":
            continue
        name = child.tag.lower().rstrip("s")
        box = next((item.tag for item in child.iter() if str(item.tag).lower() in ("bndbox", "bbox", *CORNERS)), None)
        if name in ("object", "obj") or box is not None:
            held = f" with <{box}>" if box is not None else ""
            raise ValueError(
                f"{path}: unknown element <{child.tag}>{held}; expected <object> directly below <annotation>; "
                "rename the element"
            )


def _require_flat(item: ET.Element, where: str) -> None:
    """Raise ValueError for an object inside of another, whose box would be ignored. Parts of persons may have boxes."""
    for child in item:
        if len(child) and child.tag not in ("bndbox", "part") and child.find(".//bndbox") is not None:
            raise ValueError(
                f"{where} has a <{child.tag}> with a box in it; expected one <object> for each box; move it"
            )


def _size(root: ET.Element, path: File) -> tuple[int, int] | None:
    size = root.find("size")
    if size is None:
        return None
    texts = size.findtext("width"), size.findtext("height")
    try:
        width, height = (int(float(text or 0)) for text in texts)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: <size> has width and height {texts}; expected two numbers; correct it") from error
    return (width, height) if width > 0 and height > 0 else None


def decide_base(raws: Sequence[RawAnnotation]) -> tuple[int, str | None]:
    """Return the base, 1 as published or 0, and the reason; None as reason if no box starts at 0.

    Many boxes start at an image's first pixel, whatever its number. In files that count from 0, no maximum reaches the
    image's size. So a few wrong zeros do not make the base 0; they become faults.
    """
    at_zero = at_one = at_size = 0
    for raw in raws:
        for xmin, ymin, xmax, ymax in raw.corners:
            at_zero += min(xmin, ymin) == 0
            at_one += min(xmin, ymin) == 1
            at_size += raw.size is not None and (xmax == raw.size[0] or ymax == raw.size[1])
    base = 0 if at_zero > at_one + at_size else 1
    if not at_zero:
        return base, None
    return base, (
        f"boxes count from {base} ({at_zero} start at 0, {at_one} at 1, {at_size} end at the image's size); "
        "set dataset.box_base if this is wrong"
    )


def to_objects(raw: RawAnnotation, base: int) -> Iterator[MarkedObject]:
    """Yield the objects of a file whose pixels count from `base`."""
    for number, (name, corners, flags) in enumerate(zip(raw.names, raw.corners, raw.flags, strict=True)):
        xmin, ymin, xmax, ymax = corners
        yield MarkedObject(
            name,
            half_open_corners(corners, base),
            f"{raw.path}: object {number}",
            f"(xmin, ymin, xmax, ymax) = ({xmin:g}, {ymin:g}, {xmax:g}, {ymax:g})",
            difficult=flags[0],
            truncated=flags[1],
            occluded=flags[2],
            pixel_base=base,
        )


def absent_tags(raws: Sequence[RawAnnotation]) -> str | None:
    """Return one line with the number of files without each optional tag; None if no tag is absent."""
    absent = Counter(tag for raw in raws for tag in sorted(raw.absent))
    if not absent:
        return None
    tags = ", ".join(f"<{tag}> absent in {count}" for tag, count in absent.items())
    size = "; sizes are read from the images" if "size" in absent else ""
    return f"{len(raws)} files: {tags}, taken as 0{size}"
