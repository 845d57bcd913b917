"""Merges several folders into one dataset. Each folder has its own format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from detector.datasets.records import Reading
from detector.datasets.tar_shards import File


def join_readings(readings: Sequence[Reading]) -> Reading:
    """Return the records of several folders as one reading, in the order of the folders.

    An id that occurs in two folders gets the number of its folder as a prefix: 2/image. If only some folders have
    splits, the pictures of the others are for training. Raises ValueError if a picture is in two folders.
    """
    count = Counter(record.image_id for reading in readings for record in reading.records)
    has_splits = [any(record.splits for record in reading.records) for reading in readings]
    whole = Reading(" + ".join(reading.summary for reading in readings))
    source_of: dict[File, File] = {}
    for number, (reading, has) in enumerate(zip(readings, has_splits, strict=True), start=1):
        whole.faults += reading.faults
        whole.notes += reading.notes
        if any(has_splits) and not has:
            whole.notes.append(f"{reading.summary}: no splits, so all of it is for training")
        for record in reading.records:
            place = record.file.resolve()
            if place in source_of:
                raise ValueError(
                    f"{record.source}: annotates {record.file}, as {source_of[place]} does; expected folders in "
                    "dataset.also that share no picture with dataset.root"
                )
            source_of[place] = record.source
            splits = record.splits if has or not any(has_splits) else frozenset({"train"})
            image_id = f"{number}/{record.image_id}" if count[record.image_id] > 1 else record.image_id
            whole.records.append(replace(record, image_id=image_id, splits=splits))
    lists = [reading.classes for reading in readings]
    if all(classes is not None for classes in lists):
        whole.classes = tuple(dict.fromkeys(name for classes in lists for name in classes or ()))
    return whole
