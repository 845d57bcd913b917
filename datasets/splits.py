"""Which pictures are trained on and which are scored: as a folder says, or by the contents of its pictures.

A split by content is a function of the pictures' bytes and their classes alone. Names, folders, dates and the machine
do not matter, so a run that goes on sees the split that it began with. Copies of a picture stay on one side.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from detector.datasets.fingerprints import fingerprints, same_groups
from detector.datasets.records import Record

ORDER = ("trainval", "train", "val", "test")


class Split(NamedTuple):
    """The two sides, and one line about them."""

    train: list[Record]
    test: list[Record]
    told: str


def split_records(
    records: Sequence[Record], *, train: str, test: str, val_fraction: float, where: str, keep_checks: bool = False
) -> Split:
    """Train and test records; the two names are splits of the folder, several joined by +, or "auto".

    Raises ValueError for a name that the folder does not have.
    """
    counts = Counter(name for record in records for name in record.splits)
    for key, named in (("train", train), ("test", test)):
        unknown = [part for part in named.split("+") if part not in counts]
        if named != "auto" and unknown:
            known = f"it has {_told(counts)}" if counts else "it has none: leave it at auto for a split by content"
            raise ValueError(f"dataset.{key}={named}: {where} has no split {unknown[0]!r}; {known}")
    if test == "auto":
        test = next((name for name in ("test", "val") if name in counts and name not in train.split("+")), "")
    if train == "auto":
        candidates = ("trainval", "train") if test == "test" else ("train", "trainval")
        train = next((name for name in candidates if name in counts), "")
    whole = [record for record in records if not train or record.splits & set(train.split("+"))]
    if not test:
        return by_contents(whole, val_fraction, where, keep_checks)
    if not train:
        whole = [record for record in records if not record.splits & set(test.split("+"))]
        if not whole:  # the only split that is named is no pair
            return by_contents(records, val_fraction, where, keep_checks)
    tested = [record for record in records if record.splits & set(test.split("+"))]
    used = {id(record) for record in (*whole, *tested)}
    rest = Counter("+".join(sorted(record.splits)) or "no split" for record in records if id(record) not in used)
    unused = f"; not used: {_told(rest)}" if rest else ""
    return Split(
        whole,
        tested,
        f"{len(whole)} pictures to train on ({train or 'the rest'}), {len(tested)} to test ({test}){unused}",
    )


def _told(counts: Counter[str]) -> str:
    names = sorted(counts, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    return ", ".join(f"{name} ({counts[name]})" for name in names)


def by_contents(records: Sequence[Record], val_fraction: float, where: str, keep_checks: bool = False) -> Split:
    """A split in which every class has about `val_fraction` of its pictures on the test side.

    With `keep_checks` what was computed of the pictures is kept for the next start.

    Raises ValueError if there is nothing to divide.
    """
    prints = fingerprints([record.file for record in records], keep=keep_checks)
    members: dict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(same_groups(prints)):
        members[group].append(index)
    if len(members) < 2:
        raise ValueError(
            f"{where}: {len(records)} pictures, {len(members)} of them different: nothing to divide into train and "
            "test; add pictures, or name the splits with dataset.train and dataset.test"
        )
    groups = sorted(members.values(), key=lambda group: min(prints[index].content for index in group))
    names = [frozenset(item.name for index in group for item in records[index].objects) for group in groups]
    tested = _stratified([len(group) for group in groups], names, val_fraction)
    is_test = {index for place in tested for index in groups[place]}
    train = [record for index, record in enumerate(records) if index not in is_test]
    test = [records[index] for index in sorted(is_test)]
    copies = len(records) - len(groups)
    kept = f"; {copies} copies stay on the side of their originals" if copies else ""
    return Split(
        train, test,
        f"no pair of splits found: {len(train)} pictures to train on, {len(test)} to test, divided by content "
        f"(dataset.val_fraction={val_fraction:g}){kept}",
    )  # fmt: skip


def _stratified(sizes: Sequence[int], names: Sequence[frozenset[str]], fraction: float) -> set[int]:
    """The groups of the test side. The rarest class chooses first, from the groups in their order.

    Each class with two groups or more has one on either side, as far as the classes before it allow.
    """
    holding: dict[str, list[int]] = defaultdict(list)
    for place, held in enumerate(names):
        for name in held or ("",):  # pictures without objects are a class of their own
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
    """Keeps a split in a JSON file, for `read_split_file`; the ids of both sides."""
    content = {"train": [item.image_id for item in split.train], "test": [item.image_id for item in split.test]}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    os.replace(temporary, path)


def kept_split(path: Path, records: Sequence[Record]) -> Split:
    """The split that a file of `write_split` keeps.

    Raises ValueError if the file is of another kind, or names a picture that is not there.
    """
    try:
        content = json.loads(path.read_bytes())
        sides = [[str(item) for item in content[side]] for side in ("train", "test")]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"dataset.split_file={path}: cannot be read as a split ({error!r}); leave it out") from error
    by_id = {record.image_id: record for record in records}
    missing = [item for side in sides for item in side if item not in by_id]
    if missing:
        raise ValueError(
            f"dataset.split_file={path}: names {len(missing)} pictures that are not there (first: {missing[0]}); "
            "restore them, or leave the file out for a new split"
        )
    train, test = ([by_id[item] for item in side] for side in sides)
    new = len(by_id.keys() - set(sides[0]) - set(sides[1]))
    unused = f"; {new} pictures are new since and not used" if new else ""
    return Split(train, test, f"{len(train)} pictures to train on, {len(test)} to test, as {path} says{unused}")
