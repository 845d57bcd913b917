"""Finds the pictures of a YOLO folder, their text files, and the splits that data.yaml gives them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from detector.datasets.images import SUFFIXES
from detector.datasets.readers.collect import Collection
from detector.datasets.readers.tree import SPLITS, Tree, split_of
from detector.datasets.readers.yolo_settings import NULL
from detector.datasets.text_files import read_text

SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "test": "test"}


def label_files(tree: Tree, files: Sequence[str], found: Collection) -> dict[str, str]:
    """Return the text file of each picture.

    Of several, take the one in YOLO's place, labels/x.txt for images/x.jpg. Without one, different files are a fault.
    """
    several: dict[str, list[str]] = defaultdict(list)
    for path in files:
        try:
            picture = tree.picture_with_stem(path)
        except ValueError as error:
            found.fault(path, error)
            continue
        if picture is not None:
            several[picture].append(path)
    label_file: dict[str, str] = {}
    left_out = []
    for picture, paths in several.items():
        place = re.sub(r"(^|.*/)images/(.*)\.[^.]*", r"\1labels/\2.txt", picture)
        label_file[picture] = chosen = place if place in paths else paths[0]
        others = [path for path in paths if path != chosen]
        if place in paths:
            left_out += others
        elif others and len({tree.head(path, -1) for path in paths}) > 1:
            text = f"{tree.full(others[0])}: annotates {picture}, as {chosen} does, but differs; remove one of them"
            found.fault(picture, ValueError(text))
    if left_out:
        found.notes.append(
            f"{len(left_out)} text files are left out, since labels/ has those of their pictures (first: {left_out[0]})"
        )
    return label_file


def used_pictures(
    tree: Tree,
    label_file: Mapping[str, str],
    listed: Mapping[str, frozenset[str]],
    where: str,
    found: Collection,
) -> list[str]:
    """Return the pictures that belong to the data set, with a note about the others.

    If a YAML file lists pictures, others are left out, except those in the folder of a split that it does not list.
    Masks and previews have the name of an annotated picture, and no text file.
    """
    splits = frozenset(split for names in listed.values() for split in names)
    stems = {PurePosixPath(picture).stem for picture in label_file}
    if listed:
        used = [picture for picture in tree.pictures if picture in listed or split_of(picture) - splits]
        why = f"are in no folder or list that {where} names"
    else:
        used = [
            picture for picture in tree.pictures if picture in label_file or PurePosixPath(picture).stem not in stems
        ]
        why = "have the name of an annotated picture and no text file, like masks,"
    kept = set(used)
    rest = [picture for picture in tree.pictures if picture not in kept]
    if rest:
        found.notes.append(f"{len(rest)} pictures {why} and are left out (first: {rest[0]})")
    return used


def listed_splits(tree: Tree, settings: dict[str, Any], near: str, collection: Collection) -> dict[str, frozenset[str]]:
    """Return the splits of pictures in a YAML file, which names folders or lists of paths.

    Add a note to `collection` for a folder or list without pictures.
    """
    found: dict[str, set[str]] = {}
    for key, split in SPLIT_KEYS.items():
        values = settings.get(key) or []
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str) or value in ("", *NULL):
                continue
            parts = [part for part in value.replace("\\", "/").split("/") if part not in ("", ".", "..")]
            pictures = _listed(tree, parts, near, collection) if value.endswith(".txt") else _below(tree, parts)
            if not pictures:
                collection.notes.append(f"{near} names {key}: {value}, but it has no pictures here")
            for picture in pictures:
                found.setdefault(picture, set()).add(split)
    return {picture: frozenset(splits) for picture, splits in found.items()}


def _below(tree: Tree, parts: Sequence[str]) -> list[str]:
    """Return the pictures below the folder whose path ends in as many of these parts as possible; all without parts."""
    if not parts:
        return tree.pictures
    for start in range(len(parts)):
        is_any_split = SPLITS.keys().isdisjoint(part.lower() for part in parts[start:])
        if start and is_any_split and parts[start - 1].lower() in SPLITS:
            return []  # train/images does not exist, and another folder of images has more than this split
        folder = "/" + "/".join(parts[start:]) + "/"
        found = [picture for picture in tree.pictures if folder in f"/{picture}"]
        if found:
            return found
    return []


def _listed(tree: Tree, parts: Sequence[str], near: str, collection: Collection) -> list[str]:
    path = next(
        (path for path in tree.having(".txt") if path.endswith("/".join(parts[-2:])) or path == parts[-1]), None
    )
    if path is None:
        return []
    lines = [line.strip() for line in read_text(tree.full(path)).splitlines()]
    pictures = {line: tree.picture_named(line, near) for line in lines if line.lower().endswith(SUFFIXES)}
    absent = [line for line, picture in pictures.items() if picture is None]
    if absent:
        collection.notes.append(f"{path} lists {len(absent)} pictures that are not here (first: {absent[0]})")
    return [picture for picture in pictures.values() if picture is not None]
