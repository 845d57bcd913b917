"""Collects records and faults for the readers of all formats. A picture may have only one annotation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from detector.datasets.faults import Fault
from detector.datasets.readers.same_objects import are_same
from detector.datasets.readers.split_lists import splits_of_lists
from detector.datasets.readers.tree import Tree
from detector.datasets.records import MarkedObject, Reading, Record, image_ids_of
from detector.datasets.tar_shards import File


class _Entry(NamedTuple):
    picture: str
    source: File
    size: tuple[int, int] | None
    objects: tuple[MarkedObject, ...]
    splits: frozenset[str]


class Collection:
    """The pictures, objects and faults that a reader has found so far."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.faults: list[Fault] = []
        self.notes: list[str] = []
        self.skipped_shapes: Counter[str] = Counter()  # kinds of shapes that are not boxes, and their number
        self._entries: dict[str, _Entry] = {}
        self._copies: list[str] = []  # annotations that repeat another file

    def __len__(self) -> int:
        return len(self._entries)

    def add(
        self,
        picture: str,
        source: File,
        size: tuple[int, int] | None,
        objects: Iterable[MarkedObject],
        splits: frozenset[str],
    ) -> None:
        """Add a picture, by its path in the tree. A second annotation of it is a fault, unless it is a copy.

        A copy is another file with the same objects, which does not contradict the split: all.json beside train.json.
        """
        before = self._entries.get(picture)
        objects = tuple(objects)
        if before is not None:
            if before.source != source and are_same(before.objects, objects) and _agree(before.splits, splits):
                self._entries[picture] = before._replace(splits=before.splits | splits)
                self._copies.append(f"{picture} in {source}")
                return
            again = "again" if before.source == source else f"as {before.source} does"
            self.faults.append(Fault(picture, f"{source}: annotates {picture}, {again}; remove one of them"))
            return
        self._entries[picture] = _Entry(picture, source, size, objects, splits)

    def fault(self, image_id: str, error: ValueError) -> None:
        """Add a fault of a picture or its annotation."""
        self.faults.append(Fault(image_id, str(error)))

    def note_left_out(self, why: str) -> None:
        """Add a note with the number of pictures without record. `why` is the reason."""
        rest = [picture for picture in self.tree.pictures if picture not in self._entries]
        if rest:
            self.notes.append(f"{len(rest)} pictures {why} and are left out (first: {rest[0]})")

    def reading(self, summary: str, classes: tuple[str, ...] | None = None) -> Reading:
        """Return everything found. `summary` is one line about it.

        If no picture has a split, lists such as train.txt give the splits.
        """
        entries = list(self._entries.values())
        listed: list[str] = []
        if not any(item.splits for item in entries):
            splits, listed = splits_of_lists(self.tree, list(self._entries))
            entries = [item._replace(splits=splits.get(item.picture, frozenset())) for item in entries]
        records = [
            Record(image_id, self.tree.full(item.picture), item.source, item.size, item.objects, item.splits)
            for item, image_id in zip(entries, image_ids_of([item.picture for item in entries]), strict=True)
        ]
        notes = [*self.notes, *listed]
        if self._copies:
            notes.append(f"{len(self._copies)} annotations repeat those of another file (first: {self._copies[0]})")
        if self.skipped_shapes:
            kinds = ", ".join(f"{kind} ({count})" for kind, count in sorted(self.skipped_shapes.items()))
            notes.append(f"shapes that are not boxes are skipped: {kinds}")
        return Reading(summary, records, list(self.faults), notes, classes)


def _agree(splits: frozenset[str], others: frozenset[str]) -> bool:
    """Return True if a picture may be in both: in no split, in equal ones, or in a part of trainval."""
    both = splits | others
    return not splits or not others or splits == others or ("trainval" in both and "test" not in both)


def find_picture(
    tree: Tree, name: str, near: str, split: frozenset[str] = frozenset(), *, where: str | None = None
) -> str:
    """Return the picture that a file names at `where`. Raises ValueError if it is missing or ambiguous."""
    found = tree.picture_named(name, near, split)
    if found is None:
        raise ValueError(
            f"{where or tree.full(near)}: names the picture {name}, but {tree.root} does not contain it"
            f"{tree.of_other_kind(name)}; "
            "restore the picture or remove its annotation"
        )
    return found
