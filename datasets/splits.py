"""Splits pictures into train and test: by the splits of a folder, or by the content of the pictures.

A split by content depends only on the pictures' bytes and their classes, not on names, folders, dates or the machine.
So a resumed run has the same split. Copies of a picture are in the same split.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from detector.datasets.fingerprints import fingerprints, same_groups
from detector.datasets.readers.tree import SPLITS
from detector.datasets.records import Record

ORDER = ("trainval", "train", "val", "test")


class Split(NamedTuple):
    """Train and test records, and a summary of one line."""

    train: list[Record]
    test: list[Record]
    summary: str


def split_records(
    records: Sequence[Record], *, train: str, test: str, val_fraction: float, where: str, keep_checks: bool = False
) -> Split:
    """Return train and test records. Both names are splits of the folder, several joined by +, or "auto".

    Raises ValueError for a name that the folder does not have.
    """
    counts = Counter(name for record in records for name in record.splits)
    train, test = (_usual_names(named, counts) for named in (train, test))
    for key, named in (("train", train), ("test", test)):
        unknown = [part for part in named.split("+") if part not in counts]
        if named != "auto" and unknown:
            known = f"it has {_listed(counts)}" if counts else "it has none: use auto for a split by content"
            raise ValueError(f"dataset.{key}={named}: {where} has no split {unknown[0]!r}; {known}")
    if test == "auto":
        test = next((name for name in ("test", "val") if name in counts and name not in train.split("+")), "")
    if train == "auto":
        candidates = ("trainval", "train") if test == "test" else ("train", "trainval")
        train = next((name for name in candidates if name in counts), "")
    trained = [record for record in records if not train or record.splits & set(train.split("+"))]
    if not test:
        return by_contents(trained, val_fraction, where, keep_checks)
    if not train:
        trained = [record for record in records if not record.splits & set(test.split("+"))]
        if not trained:  # every record is in the test split
            return by_contents(records, val_fraction, where, keep_checks)
    tested = [record for record in records if record.splits & set(test.split("+"))]
    used = {id(record) for record in (*trained, *tested)}
    rest = Counter("+".join(sorted(record.splits)) or "no split" for record in records if id(record) not in used)
    unused = f"; not used: {_listed(rest)}" if rest else ""
    return Split(
        trained,
        tested,
        f"{len(trained)} pictures to train on ({train or 'the rest'}), {len(tested)} to test on ({test}){unused}",
    )


def _usual_names(named: str, counts: Counter[str]) -> str:
    """Return the splits as readers name them: valid is val, unless the folder has the split valid."""
    return "+".join(part if part in counts else SPLITS.get(part.lower(), part) for part in named.split("+"))


def _listed(counts: Counter[str]) -> str:
    names = sorted(counts, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    return ", ".join(f"{name} ({counts[name]})" for name in names)


def by_contents(records: Sequence[Record], val_fraction: float, where: str, keep_checks: bool = False) -> Split:
    """Return a split by content. About `val_fraction` of the pictures of each class are test records.

    With `keep_checks`, the fingerprints of the pictures are stored for the next start.

    Raises ValueError if there are fewer than two different pictures.
    """
    prints = fingerprints([record.file for record in records], keep=keep_checks)
    members: dict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(same_groups(prints)):
        members[group].append(index)
    if len(members) < 2:
        raise ValueError(
            f"{where}: {len(records)} pictures, {len(members)} of them different; expected two or more for a split "
            "into train and test; add pictures, or name the splits with dataset.train and dataset.test"
        )
    groups = sorted(members.values(), key=lambda group: min(prints[index].content for index in group))
    names = [frozenset(item.name for index in group for item in records[index].objects) for group in groups]
    tested = _stratified([len(group) for group in groups], names, val_fraction)
    is_test = {index for place in tested for index in groups[place]}
    train = [record for index, record in enumerate(records) if index not in is_test]
    test = [records[index] for index in sorted(is_test)]
    copies = len(records) - len(groups)
    kept = f"; {copies} copies are in the same split as their originals" if copies else ""
    return Split(
        train, test,
        f"no train and test splits found: {len(train)} pictures to train on, {len(test)} to test on, split by content "
        f"(dataset.val_fraction={val_fraction:g}){kept}",
    )  # fmt: skip


def _stratified(sizes: Sequence[int], names: Sequence[frozenset[str]], fraction: float) -> set[int]:
    """Return the groups of the test split. The rarest class chooses first, from the groups in their order.

    Each class with two or more groups gets at least one in each split, if the choices of rarer classes allow it.
    """
    holding: dict[str, list[int]] = defaultdict(list)
    for place, held in enumerate(names):
        for name in held or ("",):  # pictures without objects count as one more class
            holding[name].append(place)
    is_test: dict[int, bool] = {}
    for name in sorted(holding, key=lambda name: (len(holding[name]), name)):
        places = holding[name]
        wanted = fraction * sum(sizes[place] for place in places)
        free = [place for place in places if place not in is_test]
        tested = [place for place in places if is_test.get(place)]
        taken = sum(sizes[place] for place in tested)
        chosen = []
        for place in free:
            if taken + sizes[place] / 2 <= wanted:
                chosen.append(place)
                taken += sizes[place]
        if not tested and not chosen and len(places) > 1:
            chosen = free[:1]
        if chosen and len(tested) + len(chosen) == len(places):
            chosen.pop()
        is_test |= {place: place in chosen for place in free}
    found = {place for place, tested in is_test.items() if tested}
    return found or {min(range(len(sizes)), key=lambda place: sizes[place])}


def write_split(path: Path, split: Split) -> None:
    """Write the image ids of a split to a JSON file, for `read_split_file`."""
    content = {"train": [item.image_id for item in split.train], "test": [item.image_id for item in split.test]}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    os.replace(temporary, path)


def read_split_file(path: Path, records: Sequence[Record]) -> Split:
    """Return the split in a file of `write_split`.

    Raises ValueError if the file has another format, or names a missing picture.
    """
    try:
        content = json.loads(path.read_bytes())
        sides = [[str(item) for item in content[side]] for side in ("train", "test")]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"dataset.split_file={path}: cannot be read as a split ({error!r}); give another file, or "
            "dataset.split_file=null for a split by content"
        ) from error
    by_id = {record.image_id: record for record in records}
    missing = [item for side in sides for item in side if item not in by_id]
    if missing:
        raise ValueError(
            f"dataset.split_file={path}: {len(missing)} of its pictures are missing (first: {missing[0]}); "
            "restore them, or leave the setting out for a new split"
        )
    train, test = ([by_id[item] for item in side] for side in sides)
    new = len(by_id.keys() - set(sides[0]) - set(sides[1]))
    unused = f"; {new} newer pictures are not used" if new else ""
    return Split(train, test, f"{len(train)} pictures to train on, {len(test)} to test on, from {path}{unused}")
