"""Writes tar shards in the WebDataset format: train-000000.tar, test-000000.tar ...; each picture has a VOC XML file.

The two files of a picture have one key: the name up to its first dot.
"""

from __future__ import annotations

import io
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path

from detector.datasets.writers.sides import Side, file_stem, new_folder
from detector.datasets.writers.voc import annotation_element, thin_boxes

SHARD_BYTES = 1_000_000_000  # pictures of one shard; a larger picture has a shard of its own


def write_shards(
    folder: Path, sides: Sequence[Side], classes: Sequence[str], *, shard_bytes: int = SHARD_BYTES
) -> list[str]:
    """Write the shards, in the order of the pictures. Return one line about boxes that VOC cannot hold, if any.

    Equal pictures give equal shards: times and owners are 0. Raises ValueError if the folder is not new, or if two
    pictures would get the same key.
    """
    new_folder(folder)
    taken: set[str] = set()
    thin = 0
    for side in sides:
        for number, indices in enumerate(_groups(side, shard_bytes)):
            with tarfile.open(folder / f"{side.name}-{number:06d}.tar", "w") as shard:
                for index in indices:
                    item, file = side.annotations[index], side.files[index]
                    key = file_stem(item).replace(".", "_")
                    if key in taken:
                        raise ValueError(f"{file}: two pictures would get the name {key}; rename one of them")
                    taken.add(key)
                    root, left_out = annotation_element(item, key + file.suffix, classes)
                    thin += left_out
                    ET.indent(root)
                    _add(shard, key + file.suffix, file.read_bytes())
                    _add(shard, f"{key}.xml", ET.tostring(root, encoding="utf-8"))
    return thin_boxes(thin)


def _groups(side: Side, shard_bytes: int) -> Iterator[list[int]]:
    """Yield the indices of the pictures of each shard."""
    group: list[int] = []
    total = 0
    for index, file in enumerate(side.files):
        size = file.stat().st_size
        if group and total + size > shard_bytes:
            yield group
            group, total = [], 0
        group.append(index)
        total += size
    if group:
        yield group


def _add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    shard.addfile(info, io.BytesIO(content))
