"""Reads VOC XML files without image lists: beside the pictures, as LabelImg writes them, or in a separate folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from detector.datasets.readers.collect import Collection
from detector.datasets.readers.cvat import looks_like_cvat
from detector.datasets.readers.tree import Tree, plain_name, split_of
from detector.datasets.records import Reading
from detector.datasets.voc_xml import RawAnnotation, absent_tags, decide_base, read_annotation, to_objects

NOT_VOC = (b"<svg", b"<html", b"<!DOCTYPE html", b"<project")


class AnnotationFile(NamedTuple):
    """An annotation file, its picture if already known, and its splits."""

    source: str
    picture: str | None
    splits: frozenset[str]


def find(tree: Tree) -> list[str]:
    """Return the XML files, unless the first ones are clearly of another kind."""
    files = tree.having(".xml")
    heads = [tree.head(path) for path in files[:5]]
    return files if any(_may_be_voc(head) for head in heads) else []


def _may_be_voc(head: bytes) -> bool:
    plain = head.replace(b"\0", b"")  # UTF-16
    return b"<" in plain and not looks_like_cvat(plain) and not any(root in plain for root in NOT_VOC)


def read(tree: Tree, files: list[str], *, box_base: str) -> Reading:
    """Return one record per file. Its picture has the same name as the file, or is named in it."""
    found = collect_files(tree, [AnnotationFile(path, None, split_of(path)) for path in files], box_base=box_base)
    found.note_left_out("have no annotation")
    reading = found.reading("")
    folders = sorted({path.rpartition("/")[0] or "the folder itself" for path in files})
    if all(record.file.parent == record.source.parent for record in reading.records):
        reading.summary = f"LabelImg folder: {len(found)} pictures, XML beside them"
    else:
        reading.summary = f"VOC XML: {len(found)} pictures, annotations in {', '.join(folders[:4])}"
    return reading


def collect_files(tree: Tree, entries: Sequence[AnnotationFile], *, box_base: str) -> Collection:
    """Return the records of VOC files. `box_base` is auto, one or zero."""
    found = Collection(tree)
    others: list[str] = []
    kept: list[tuple[str, AnnotationFile, RawAnnotation]] = []
    for entry in entries:
        try:
            raw = read_annotation(tree.full(entry.source))
            picture = entry.picture or tree.picture_with_stem(entry.source)
            if picture is not None and _names_other(tree, entry.source, raw.filename, picture):
                others.append(f"{entry.source}: {raw.filename}")
            if picture is None and raw.filename:
                picture = tree.picture_named(raw.filename, entry.source, is_pair=True)
            if picture is None:
                raise ValueError(
                    f"{raw.path}: no picture of this name in {tree.root}, nor {raw.filename or 'a <filename>'}"
                    f"{tree.of_other_kind(entry.source)}; "
                    "restore the picture or remove the annotation"
                )
        except ValueError as error:  # noqa: PERF203
            found.fault(entry.source, error)
        else:
            kept.append((picture, entry, raw))
    if others:
        found.notes.append(
            f"{len(others)} files are named like one picture and name another in <filename>; the first is used "
            f"(first: {others[0]})"
        )
    raws = [raw for _, _, raw in kept]
    base = {"one": 1, "zero": 0}.get(box_base)
    if base is None:
        base, reason = decide_base(raws)
        found.notes += [reason] if reason else []
    for picture, entry, raw in kept:
        found.add(picture, raw.path, raw.size, to_objects(raw, base), entry.splits or split_of(picture))
    absent = absent_tags(raws)
    found.notes += [absent] if absent else []
    return found


def _names_other(tree: Tree, source: str, filename: str, picture: str) -> bool:
    """Return True if <filename> is the name of another picture in the folder."""
    stem = plain_name(PurePosixPath(filename.replace("\\", "/")).stem)
    if stem in ("", plain_name(PurePosixPath(picture).stem)):
        return False
    return tree.picture_named(filename, source, is_pair=True) is not None
