"""Opens any folder of pictures and annotations. Detects its format; reads or decides its classes and splits.

files -> readers/ (records) -> classes -> splits.py -> annotate.py (boxes, labels)
"""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from detector.datasets.annotate import annotate, read_annotated
from detector.datasets.bit_depth import common_depth
from detector.datasets.class_names import odd_classes, unshared_classes, unused_classes
from detector.datasets.faults import Fault, raise_faults
from detector.datasets.join_folders import join_readings
from detector.datasets.readers.choose import read_folder
from detector.datasets.readers.tree import Tree
from detector.datasets.records import Reading, Record, fraction_faults
from detector.datasets.sample import Annotation
from detector.datasets.splits import Split, read_split_file, split_records
from detector.datasets.tar_shards import File
from detector.datasets.voc import VOC_CLASSES, is_voc

log = logging.getLogger("detector")

CLASSES_SHOWN = 100  # number of classes in a line


class FolderDataset:
    """The train or the test split of a folder."""

    classes: tuple[str, ...]
    annotations: Sequence[Annotation]

    def __init__(
        self,
        classes: tuple[str, ...],
        annotations: Sequence[Annotation],
        files: Sequence[File],
        bit_depth: int | None = None,
    ) -> None:
        self.classes = classes
        self.bit_depth = bit_depth
        self.annotations = annotations
        self.files = files

    def image(self, index: int) -> Tensor:
        """Return the decoded image [3, H, W] uint8. Raises ValueError if it is unreadable or of a wrong size."""
        return read_annotated(self.files[index], self.annotations[index], self.bit_depth)


class Folder:
    """An opened folder: both splits, and a report on how they were read."""

    summary: list[str]  # one line each: format, classes, split
    root: Path
    odd: list[str]  # one line each: possible mistakes
    notes: list[str]  # one line each: what the reader skipped or decided
    faults: list[Fault]  # filled with `leave_out_faulty`; without it, faults are raised
    corrected: Counter[str]  # the number of faulty boxes that a rule corrects, by rule; with `leave_out_faulty`
    split: Split  # `splits.write_split` keeps it
    train: FolderDataset
    test: FolderDataset

    def __init__(
        self,
        root: Path,
        *,
        format_: str = "auto",
        train: str = "auto",
        test: str = "auto",
        classes: Sequence[str] | None = None,
        also: Sequence[Path] = (),
        columns: Mapping[str, str] | None = None,
        rename: Mapping[str, str] | None = None,
        box_base: str = "auto",
        val_fraction: float = 0.2,
        split_file: Path | None = None,
        strict: bool = False,
        bit_depth: int | None = None,
        leave_out_faulty: bool = False,
        keep_checks: bool = False,
    ) -> None:
        """`also` are more folders to merge with `root`, each in its own format.

        `rename` changes class names. Then `classes` selects the classes to keep; None keeps all that are found.
        `columns` gives the column names of a CSV, see `readers/csv_table.py`.

        `train` and `test` name splits of the folder. "auto" uses the folder's splits, or splits by content.
        `bit_depth` is the depth of pictures with more than 8 bits; None finds it from a sample of them.
        With `strict`, problems that are otherwise corrected and reported are faults.

        With `keep_checks`, the fingerprints for a split by content are stored for the next start.

        With `leave_out_faulty`, `faults` lists the faults. In both splits, faulty boxes are corrected by the rules of
        `box_faults.py`, and objects without a rule are left out.

        Raises ValueError if the format of the folder is not clear, and FaultyDataError with all faults.
        """
        trees = [Tree(root), *(Tree(path, "dataset.also") for path in also)]
        readings = [
            _read(tree, format_ if tree.root == root else "auto", box_base=box_base, columns=columns or {})
            for tree in trees
        ]
        reading = join_readings(readings) if also else readings[0]
        faults = list(reading.faults)
        rename = {_composed(name): _composed(new) for name, new in (rename or {}).items()}
        classes = None if classes is None else [_composed(name) for name in classes]
        records = [_renamed(record, rename) for record in reading.records]
        if reading.classes is not None:
            named = map(_composed, reading.classes)
            reading.classes = tuple(dict.fromkeys(rename.get(name, name) for name in named))
        try:
            names, left_out = _classes(records, classes, reading, (root, *also))
        except ValueError:
            raise_faults(str(root), faults)  # they may be the cause
            raise
        faults += fraction_faults(records)
        if left_out and strict:
            faults += [
                Fault(record.image_id, f"{item.where} has the class {item.name!r}, which is not in dataset.classes")
                for record in records
                for item in record.objects
                if item.name in left_out
            ]
        elif left_out:
            records = [_of_classes(record, names) for record in records]
            reading.notes.append(f"classes left out, since they are not in dataset.classes: {_counted(left_out)}")
        try:
            if split_file is not None:
                self.split = read_split_file(split_file, records)
            else:
                self.split = split_records(
                    records,
                    train=train,
                    test=test,
                    val_fraction=val_fraction,
                    where=f"dataset.root={root}",
                    keep_checks=keep_checks,
                )
        except ValueError as error:
            raise_faults(str(root), faults)  # they may be the cause
            raise ValueError("; ".join([str(error), reading.summary, *reading.notes])) from error
        odd = [
            *_repeated(records),
            *_in_both(self.split),
            *_not_scored(self.split),
            *odd_classes(_count(records)),
            *(unused_classes(reading.classes, _count(records)) if classes is None and reading.classes else []),
            *unshared_classes(_count(self.split.train), _count(self.split.test)),
        ]
        counts = _counted(_count(records), names)
        self.summary = [reading.summary, *reading.notes, f"classes: {counts}", self.split.summary]
        self.odd, self.notes, self.root = odd, list(reading.notes), root
        self.corrected = Counter()
        kept = self.corrected if leave_out_faulty else None
        train_side, test_side = (
            annotate(side, names, faults, strict=strict, where=f"{root} ({name})", corrected=kept)
            for name, side in (("train", self.split.train), ("test", self.split.test))
        )
        faults = list(dict.fromkeys(faults))
        raise_faults(str(root), [] if leave_out_faulty else faults)
        self.faults = faults
        if bit_depth is None:
            bit_depth = common_depth([*train_side.files, *test_side.files])
            self.summary += [] if bit_depth is None else [f"pictures with more than 8 bits are read as {bit_depth}-bit"]
        self.train = FolderDataset(names, train_side.annotations, train_side.files, bit_depth)
        self.test = FolderDataset(names, test_side.annotations, test_side.files, bit_depth)


def _read(tree: Tree, format_: str, *, box_base: str, columns: Mapping[str, str]) -> Reading:
    reading = read_folder(tree, format_, box_base=box_base, columns=columns)
    if tree.shards:
        reading.summary += f", in {tree.shards} tar shards"
    if not reading.records:
        raise_faults(str(tree.root), reading.faults)
        why = "; ".join(["but no picture has an annotation", *reading.notes])
        raise ValueError(f"{tree.setting}: {reading.summary}, {why}; annotate some")
    return reading


def _repeated(records: Sequence[Record]) -> list[str]:
    """Return a line about objects that occur twice, with the same box and class."""
    again = []
    for record in records:
        seen = set()
        for item in record.objects:
            if (item.name, item.box) in seen:
                again.append(f"{item.where}, {item.name} {item.box_text}")
            seen.add((item.name, item.box))
    return [f"{len(again)} objects occur twice (first: {again[0]})"] if again else []


def _in_both(split: Split) -> list[str]:
    """Return a line about pictures that are in both splits."""
    trained = {record.file for record in split.train}
    shared = [record.image_id for record in split.test if record.file in trained]
    if not shared:
        return []
    return [f"{len(shared)} pictures are in train and in test (first: {shared[0]}): scores on them mean nothing"]


def _not_scored(split: Split) -> list[str]:
    """Return a line if no score counts an object of the test split: it has none, or all are difficult ones."""
    objects = [item for record in split.test for item in record.objects]
    if not objects:
        return [f"no object in any of the {len(split.test)} pictures to test on: there is no score"]
    if not all(item.difficult for item in objects):
        return []
    return [f"all {len(objects)} objects to test on are marked as difficult or as crowds: no score counts them"]


def _composed(name: str) -> str:
    """Return a class name with composed accents. Some programs store letter and accent separately."""
    return unicodedata.normalize("NFC", name)


def _renamed(record: Record, rename: Mapping[str, str]) -> Record:
    if not rename and all(item.name.isascii() for item in record.objects):
        return record
    named = [_composed(item.name) for item in record.objects]
    objects = tuple(
        item._replace(name=rename.get(name, name)) for item, name in zip(record.objects, named, strict=True)
    )
    return Record(record.image_id, record.file, record.source, record.size, objects, record.splits)


def _of_classes(record: Record, classes: Sequence[str]) -> Record:
    objects = tuple(item for item in record.objects if item.name in classes)
    return Record(record.image_id, record.file, record.source, record.size, objects, record.splits)


def _classes(
    records: Sequence[Record], wanted: Sequence[str] | None, reading: Reading, roots: Sequence[Path]
) -> tuple[tuple[str, ...], Counter[str]]:
    """Return the classes in the order of their labels, and the number of objects of each class left out."""
    found, root = _count(records), roots[0]
    if wanted is not None:
        absent = [name for name in wanted if name not in found]
        if len(absent) == len(wanted):
            raise ValueError(
                f"dataset.root={root}: no object of dataset.classes={list(wanted)}; it has {_counted(found)}"
            )
        return tuple(wanted), Counter({name: count for name, count in found.items() if name not in wanted})
    if not found:
        why = "; ".join(["but no objects", *reading.notes])
        raise ValueError(f"dataset.root={root}: {reading.summary}, {why}; annotate some")
    if reading.classes is not None:
        return reading.classes, Counter()
    if all(map(is_voc, roots)) and found.keys() <= set(VOC_CLASSES):
        return VOC_CLASSES, Counter()
    return tuple(sorted(name for name in found if name)), Counter()


def _count(records: Sequence[Record]) -> Counter[str]:
    return Counter(item.name for record in records for item in record.objects)


def _counted(counts: Mapping[str, int], names: Sequence[str] | None = None) -> str:
    names = names or sorted(counts)
    more = f" ... and {len(names) - CLASSES_SHOWN} more" if len(names) > CLASSES_SHOWN else ""
    return ", ".join(f"{name} ({counts.get(name, 0)})" for name in names[:CLASSES_SHOWN]) + more
