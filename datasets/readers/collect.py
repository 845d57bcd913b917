"""What readers of every format share: records with ids, each picture annotated once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from detector.datasets.faults import Fault
from detector.datasets.readers.tree import Tree
from detector.datasets.records import MarkedObject, Reading, Record, with_ids


class _Entry(NamedTuple):
    picture: str
    source: Path
    size: tuple[int, int] | None
    objects: tuple[MarkedObject, ...]
    splits: frozenset[str]


class Collection:
    """Pictures with their objects, as a reader comes upon them."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.faults: list[Fault] = []
        self.notes: list[str] = []
        self.passed_over: Counter[str] = Counter()  # shapes that are no boxes, by their kind
        self._entries: dict[str, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def add(
        self,
        picture: str,
        source: Path,
        size: tuple[int, int] | None,
        objects: Iterable[MarkedObject],
        splits: frozenset[str],
    ) -> None:
        """Takes a picture, by its path in the tree; a second annotation of it is a fault."""
        before = self._entries.get(picture)
        if before is not None:
            again = "again" if before.source == source else f"as {before.source} does"
            self.faults.append(Fault(picture, f"{source}: annotates {picture}, {again}; take one of them away"))
            return
        self._entries[picture] = _Entry(picture, source, size, tuple(objects), splits)

    def fault(self, image_id: str, error: ValueError) -> None:
        """Takes what is wrong with a picture or its annotation."""
        self.faults.append(Fault(image_id, str(error)))

    def tell_left_out(self, why: str) -> None:
        """Notes how many pictures of the tree are in no record; `why` is what they do not have."""
        rest = [picture for picture in self.tree.pictures if picture not in self._entries]
        if rest:
            self.notes.append(f"{len(rest)} pictures {why} and are left out (first: {rest[0]})")

    def reading(self, told: str, classes: tuple[str, ...] | None = None) -> Reading:
        """Everything taken; `told` is the line about it."""
        entries = list(self._entries.values())
        records = [
            Record(image_id, self.tree.full(item.picture), item.source, item.size, item.objects, item.splits)
            for item, image_id in zip(entries, with_ids([item.picture for item in entries]), strict=True)
        ]
        notes = list(self.notes)
        if self.passed_over:
            kinds = ", ".join(f"{kind} ({count})" for kind, count in sorted(self.passed_over.items()))
            notes.append(f"shapes that are no boxes are passed over: {kinds}")
        return Reading(told, records, list(self.faults), notes, classes)


def find_picture(
    tree: Tree, name: str, near: str, split: frozenset[str] = frozenset(), *, where: str | None = None
) -> str:
    """The picture that a file names, at `where` in it. Raises ValueError if there is none, or several may be meant."""
    found = tree.picture_named(name, near, split)
    if found is None:
        raise ValueError(
            f"{where or tree.full(near)}: names the picture {name}, which is not below {tree.root}; "
            "restore it or take it out"
        )
    return found
