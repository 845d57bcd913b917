"""Compares two readings of a folder: people often keep the same annotations in several formats."""

from __future__ import annotations

from collections.abc import Sequence

from detector.datasets.records import MarkedObject, Reading

SAME = 2.0  # pixels: corners of one object differ by rounding, and by the number of the first pixel


def difference_of(one: Reading, other: Reading, name: str, other_name: str) -> str | None:
    """Return the first difference of two readings as text; None if they state the same objects and splits.

    A picture without objects may be absent in one of them. Splits are compared if both state them.
    """
    records, others = ({record.file: record for record in reading.records} for reading in (one, other))
    for file in dict.fromkeys((*records, *others)):
        first, second = records.get(file), others.get(file)
        objects, other_objects = (record.objects if record else () for record in (first, second))
        if len(objects) != len(other_objects):
            return f"{file} has {len(objects)} objects in {name}, and {len(other_objects)} in {other_name}"
        if not are_same(objects, other_objects):
            return f"{file} has other boxes or classes in {name} than in {other_name}"
        if first and second and first.splits and second.splits and first.splits != second.splits:
            return f"{file} is in another split in {name} than in {other_name}"
    return None


def are_same(objects: Sequence[MarkedObject], others: Sequence[MarkedObject]) -> bool:
    """Return True if each object has a partner with the same class and about the same box, in any order."""
    rest = list(others)
    for item in objects:
        partner = next((other for other in rest if other.name == item.name and _are_near(item.box, other.box)), None)
        if partner is None:
            return False
        rest.remove(partner)
    return not rest


def _are_near(box: Sequence[float], other: Sequence[float]) -> bool:
    return all(abs(a - b) <= SAME for a, b in zip(box, other, strict=True))
