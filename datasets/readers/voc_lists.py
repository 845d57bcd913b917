"""Reads VOC trees: Annotations/, JPEGImages/ and image lists in ImageSets/Main, in the root or in folders of years."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath

from detector.datasets.faults import Fault
from detector.datasets.image_lists import read_list
from detector.datasets.readers.tree import SPLITS, Tree, split_of
from detector.datasets.readers.voc_files import AnnotationFile, collect_files
from detector.datasets.records import Reading

OF_CLASS = re.compile(r".+_(train|val|trainval|test)")  # dog_train.txt lists the images of one class


def find(tree: Tree) -> list[str]:
    """Return the image lists that have annotations beside them."""
    lists = [path for path in tree.having(".txt") if re.search(r"(?i)(^|/)ImageSets(/Main)?/[^/]+\.txt$", path)]
    annotated = _by_folder(tree.having(".xml"), "annotations").keys()
    return [
        path
        for path in lists
        if not OF_CLASS.fullmatch(PurePosixPath(path).stem) and _beside(path, "Annotations").lower() in annotated
    ]


def read(tree: Tree, files: list[str], *, box_base: str) -> Reading:
    """Return the records of the images in all lists. The splits of an image are the names of its lists."""
    annotations = _by_folder(tree.having(".xml"), "annotations")
    pictures = _by_folder(reversed(tree.pictures), "jpegimages")
    found: dict[str, AnnotationFile] = {}
    faults = []
    stems = {PurePosixPath(path).stem for path in files}
    for path in files:
        split, own = _split_name(path, stems), annotations[_beside(path, "Annotations").lower()]
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
                beside = pictures[_beside(path, "JPEGImages").lower()].get(image_id)
                found[source] = AnnotationFile(source, beside, frozenset())
            found[source] = found[source]._replace(splits=found[source].splits | {split})
    collected = collect_files(tree, list(found.values()), box_base=box_base)
    collected.faults += dict.fromkeys(faults)
    collected.note_left_out("are in no image list")
    names = ", ".join(sorted(stems))
    return collected.reading(f"VOC tree: {len(collected)} pictures, image lists {names}")


def _split_name(path: str, stems: Collection[str]) -> str:
    """Return the split of a list: valid.txt and Val.txt are val, unless there is a val.txt too.

    A list of another name, such as CVAT's default.txt, has the split of its folder.
    """
    stem = PurePosixPath(path).stem
    usual = SPLITS.get(stem.lower()) or next(iter(split_of(path)), stem)
    return stem if usual in stems else usual


def _by_folder(paths: Iterable[str], name: str) -> dict[str, dict[str, str]]:
    """Return the files below folders called `name`, in any case: folder in small letters -> id -> path.

    An id is the rest of the path without suffix. CVAT keeps the folders of its pictures: subfolder/picture.
    """
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for path in paths:
        parts = path.split("/")
        for place in range(len(parts) - 1):
            if parts[place].lower() == name:
                found["/".join(parts[: place + 1]).lower()]["/".join(parts[place + 1 :]).rpartition(".")[0]] = path
    return found


def _beside(path: str, name: str) -> str:
    """Return the folder `name` beside the ImageSets folder of a list."""
    base = re.split(r"(?i)(?:^|/)ImageSets/", path)[0]
    return f"{base}/{name}" if base else name
