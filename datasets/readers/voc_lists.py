"""Reads VOC trees: Annotations/, JPEGImages/ and image lists in ImageSets/Main, in the root or in folders of years."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection
from pathlib import PurePosixPath

from detector.datasets.faults import Fault
from detector.datasets.image_lists import read_list
from detector.datasets.readers.tree import SPLITS, Tree
from detector.datasets.readers.voc_files import AnnotationFile, collect_files
from detector.datasets.records import Reading

OF_CLASS = re.compile(r".+_(train|val|trainval|test)")  # dog_train.txt lists the images of one class


def find(tree: Tree) -> list[str]:
    """Return the image lists that have annotations beside them."""
    lists = [path for path in tree.having(".txt") if re.search(r"(^|/)ImageSets(/Main)?/[^/]+\.(?i:txt)$", path)]
    annotated = {path.rpartition("/")[0] for path in tree.having(".xml")}
    return [
        path
        for path in lists
        if not OF_CLASS.fullmatch(PurePosixPath(path).stem) and _beside(path, "Annotations") in annotated
    ]


def read(tree: Tree, files: list[str], *, box_base: str) -> Reading:
    """Return the records of the images in all lists. The splits of an image are the names of its lists."""
    annotations: dict[str, dict[str, str]] = defaultdict(dict)
    for path in tree.having(".xml"):
        folder, _, name = path.rpartition("/")
        annotations[folder][name[: -len(".xml")]] = path
    pictures: dict[str, dict[str, str]] = defaultdict(dict)
    for path in reversed(tree.pictures):
        folder, _, name = path.rpartition("/")
        pictures[folder][name.rpartition(".")[0]] = path
    found: dict[str, AnnotationFile] = {}
    faults = []
    stems = {PurePosixPath(path).stem for path in files}
    for path in files:
        split, own = _split_name(PurePosixPath(path).stem, stems), annotations[_beside(path, "Annotations")]
        for image_id in read_list(tree.full(path), own.keys()):
            source = own.get(image_id)
            if source is None:
                missing = f"{tree.full(_beside(path, 'Annotations'))}/{image_id}.xml"
                faults.append(
                    Fault(
                        image_id, f"{missing}: no such annotation, but {path} lists it; write one, or correct the list"
                    )
                )
                continue
            if source not in found:
                beside = pictures[_beside(path, "JPEGImages")].get(image_id)
                found[source] = AnnotationFile(source, beside, frozenset())
            found[source] = found[source]._replace(splits=found[source].splits | {split})
    collected = collect_files(tree, list(found.values()), box_base=box_base)
    collected.faults += dict.fromkeys(faults)
    collected.note_left_out("are in no image list")
    names = ", ".join(sorted(stems))
    return collected.reading(f"VOC tree: {len(collected)} pictures, image lists {names}")


def _split_name(stem: str, stems: Collection[str]) -> str:
    """Return the split of a list: valid.txt and Val.txt are val, unless there is a val.txt too."""
    usual = SPLITS.get(stem.lower(), stem)
    return stem if usual in stems else usual


def _beside(path: str, name: str) -> str:
    """Return the folder `name` beside the ImageSets folder of a list."""
    base = re.split(r"(?:^|/)ImageSets/", path)[0]
    return f"{base}/{name}" if base else name
