"""Collects records and faults for the readers of all formats. A picture may have only one annotation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from detector.datasets.faults import Fault
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
        """Add a picture, by its path in the tree. A second annotation of it is a fault."""
        before = self._entries.get(picture)
        if before is not None:
            again = "again" if before.source == source else f"as {before.source} does"
            self.faults.append(Fault(picture, f"{source}: annotates {picture}, {again}; remove one of them"))
            return
        self._entries[picture] = _Entry(picture, source, size, tuple(objects), splits)

    def fault(self, image_id: str, error: ValueError) -> None:
        """Add a fault of a picture or its annotation."""
        self.faults.append(Fault(image_id, str(error)))

    def note_left_out(self, why: str) -> None:
        """Add a note with the number of pictures without record. `why` is the reason."""
        rest = [picture for picture in self.tree.pictures if picture not in self._entries]
        if rest:
            self.notes.append(f"{len(rest)} pictures {why} and are left out (first: {rest[0]})")

    def reading(self, summary: str, classes: tuple[str, ...] | None = None) -> Reading:
        """Return everything found. `summary` is one line about it."""
        entries = list(self._entries.values())
        records = [
            Record(image_id, self.tree.full(item.picture), item.source, item.size, item.objects, item.splits)
            for item, image_id in zip(entries, image_ids_of([item.picture for item in entries]), strict=True)
        ]
        notes = list(self.notes)
        if self.skipped_shapes:
            kinds = ", ".join(f"{kind} ({count})" for kind, count in sorted(self.skipped_shapes.items()))
            notes.append(f"shapes that are not boxes are skipped: {kinds}")
        return Reading(summary, records, list(self.faults), notes, classes)


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
