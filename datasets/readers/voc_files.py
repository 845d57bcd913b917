"""VOC XML files without image lists: beside the pictures as LabelImg writes them, or in a folder of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from detector.datasets.faults import Fault
from detector.datasets.readers.tree import Tree, split_of
from detector.datasets.records import Reading, Record, with_ids
from detector.datasets.voc_xml import RawAnnotation, absent_tags, decide_base, read_annotation, to_objects

NOT_VOC = (b"<annotations", b"<COCO", b"<svg", b"<html", b"<project")  # CVAT's root is <annotations>


class Pictured(NamedTuple):
    """An annotation file, its picture where that is known already, and its splits."""

    source: str
    picture: str | None
    splits: frozenset[str]


def find(tree: Tree) -> list[str]:
    """The XML files, unless the first ones are clearly of another kind."""
    files = tree.having(".xml")
    heads = [tree.head(path) for path in files[:5]]
    return files if any(_may_be_voc(head) for head in heads) else []


def _may_be_voc(head: bytes) -> bool:
    plain = head.replace(b"\0", b"")  # UTF-16
    return not any(root in plain for root in NOT_VOC) and b"<" in plain


def read(tree: Tree, files: list[str], *, box_base: str) -> Reading:
    """One record a file; the picture is the one called like it, or the one that it names."""
    reading = record_files(tree, [Pictured(path, None, split_of(path)) for path in files], box_base=box_base)
    folders = {path.rpartition("/")[0] for path in files}
    beside = sum(record.file.parent == record.source.parent for record in reading.records)
    if beside == len(reading.records):
        reading.told = f"LabelImg folder: {len(reading.records)} pictures, XML beside them"
    else:
        reading.told = f"VOC XML: {len(reading.records)} pictures, annotations in {', '.join(sorted(folders)[:4])}"
    without = len(tree.pictures) - len({record.file for record in reading.records})
    if without:
        reading.notes.append(f"{without} pictures have no annotation and are left out")
    return reading


def record_files(tree: Tree, entries: Sequence[Pictured], *, box_base: str) -> Reading:
    """The records of VOC files; `box_base` is auto, one or zero."""
    reading = Reading("")
    kept: list[tuple[Pictured, RawAnnotation]] = []
    for entry in entries:
        try:
            raw = read_annotation(tree.full(entry.source))
            picture = entry.picture or tree.picture_with_stem(entry.source)
            if picture is None and raw.filename:
                picture = tree.picture_named(raw.filename, entry.source)
            if picture is None:
                raise ValueError(
                    f"{raw.path}: no picture of this name below {tree.root}, nor {raw.filename or 'a <filename>'}; "
                    "restore the picture or take the annotation away"
                )
        except ValueError as error:  # noqa: PERF203
            reading.faults.append(Fault(entry.source, str(error)))
        else:
            kept.append((entry._replace(picture=picture), raw))
    base = {"one": 1, "zero": 0}.get(box_base)
    if base is None:
        base, told = decide_base([raw for _, raw in kept])
        reading.notes += [told] if told else []
    used: dict[str, str] = {}
    ids = with_ids([entry.picture or "" for entry, _ in kept])
    for (entry, raw), image_id in zip(kept, ids, strict=True):
        picture = entry.picture or ""
        if picture in used:
            reading.faults.append(
                Fault(image_id, f"{raw.path}: annotates {picture}, as {used[picture]} does; take one of them away")
            )
            continue
        used[picture] = entry.source
        objects = tuple(to_objects(raw, base))
        reading.records.append(Record(image_id, tree.full(picture), raw.path, raw.size, objects, entry.splits))
    absent = absent_tags([raw for _, raw in kept])
    reading.notes += [absent] if absent else []
    return reading
