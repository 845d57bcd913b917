"""Reads lists of pictures such as train.txt and val.txt: the splits of a folder whose annotations state none.

Darknet writes such lists beside obj.data, PaddlePaddle with the annotation file after the picture, and VOC's
segmentation data in ImageSets/Segmentation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from detector.datasets.images import SUFFIXES
from detector.datasets.readers.tree import SPLITS, Tree, agreeing, plain_name
from detector.datasets.text_files import read_text

FILES = (*SUFFIXES, ".xml", ".json", ".txt")  # suffixes of names in lists; other ids may have dots


def splits_of_lists(tree: Tree, pictures: Sequence[str]) -> tuple[dict[str, frozenset[str]], list[str]]:
    """Return the splits of annotated pictures, and one line for each list. Both are empty if there are no lists.

    A text file is a list if it is named like a split and at least half of its lines name such pictures. Raises
    ValueError for a line that may mean several pictures.
    """
    by_stem: dict[str, list[str]] = defaultdict(list)
    for picture in pictures:
        by_stem[plain_name(PurePosixPath(picture).stem)].append(picture)
    found: dict[str, set[str]] = defaultdict(set)
    notes = []
    for path in tree.having(".txt"):
        split = SPLITS.get(PurePosixPath(path).stem.lower())
        if split is None or tree.matches_picture(path):
            continue
        lines = [line.strip().strip('"') for line in read_text(tree.full(path)).splitlines() if line.strip()]
        named = {line: _picture(line, by_stem, f"{tree.full(path)}: {line[:60]!r}") for line in lines}
        absent = [line for line, picture in named.items() if picture is None]
        if 2 * len(absent) > len(named) or not named:
            continue
        for meant in named.values():
            if meant is not None:
                found[meant].add(split)
        lost = f"; {len(absent)} of its lines name no annotated picture (first: {absent[0][:60]})" if absent else ""
        notes.append(f"{path} lists {len(named) - len(absent)} pictures of the split {split}{lost}")
    return {picture: frozenset(splits) for picture, splits in found.items()}, notes


def _picture(line: str, by_stem: Mapping[str, Sequence[str]], where: str) -> str | None:
    """Return the picture that a line names, as a whole or with its first word; None if there is none."""
    for text in dict.fromkeys((line, line.split()[0])):
        parts = PurePosixPath(text.replace("\\", "/")).parts
        if not parts:
            continue
        stem = PurePosixPath(parts[-1]).stem if parts[-1].lower().endswith(FILES) else parts[-1]
        ranked = sorted(
            (
                (agreeing(parts[-2::-1], PurePosixPath(picture).parts[-2::-1]), picture)
                for picture in by_stem.get(plain_name(stem), ())
            ),
            reverse=True,
        )
        if len(ranked) > 1 and ranked[0][0] == ranked[1][0]:
            raise ValueError(f"{where} may mean {ranked[1][1]} or {ranked[0][1]}; write the folder of the picture")
        if ranked:
            return ranked[0][1]
    return None
