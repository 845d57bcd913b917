"""Detects the format of a folder. If several formats state different objects, the user has to choose one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detector.datasets.faults import FaultyDataError, raise_faults
from detector.datasets.readers import (
    coco,
    csv_table,
    cvat,
    label_studio,
    labelme,
    open_images,
    via,
    voc_files,
    voc_lists,
    yolo,
)
from detector.datasets.readers.same_objects import difference_of
from detector.datasets.readers.tree import Tree
from detector.datasets.records import Reading

LINE_SHOWN = 60  # letters of an unknown table that a message shows


def read_folder(tree: Tree, format_: str, *, box_base: str, columns: Mapping[str, str]) -> Reading:
    """Return the records of a folder in the given format, or for "auto" in the format that is found.

    Raises ValueError if no format is found, or several with different objects.
    """
    candidates = _files_by_format(tree, columns)
    found = {name: files for name, files in candidates.items() if format_ in ("auto", name) and files}
    if "voc" in found:
        found.pop("labelimg", None)  # it finds the same files, without the lists
    if not found:
        what = "of a known format" if format_ == "auto" else f"of dataset.format={format_}"
        others = [name for name, files in candidates.items() if files]
        seen = f"found {', '.join(others)}" if others else f"known: {', '.join(candidates)}{_unknown_files(tree)}"
        raise ValueError(f"{tree.setting}: {len(tree.pictures)} pictures, but no annotations {what}; {seen}")
    if len(found) > 1:
        return _agreed(tree, found, box_base=box_base, columns=columns)
    ((name, files),) = found.items()
    return _read(tree, name, files, box_base=box_base, columns=columns)


def _agreed(tree: Tree, found: Mapping[str, list[str]], *, box_base: str, columns: Mapping[str, str]) -> Reading:
    """Return the records of one of several formats, if all state the same objects: a copy for another program.

    Prefer a format with splits. Raises ValueError if the formats differ, or if one of them cannot be read.
    """
    readings: dict[str, Reading] = {}
    try:
        for name, files in found.items():
            readings[name] = _read(tree, name, files, box_base=box_base, columns=columns)
            raise_faults(str(tree.root), readings[name].faults)
        first, *others = sorted(readings, key=lambda name: not any(record.splits for record in readings[name].records))
        differences = [difference_of(readings[first], readings[other], first, other) for other in others]
        why = next(filter(None, differences), None)
    except ValueError as error:
        first_fault = error.faults[0].message if isinstance(error, FaultyDataError) else str(error).splitlines()[0]
        why = f"{name} cannot be read ({first_fault})"
    formats = "; ".join(f"{name} ({_listed(files)})" for name, files in found.items())
    if why is not None:
        raise ValueError(
            f"{tree.setting}: annotations in several formats: {formats}; {why}; choose one with "
            f"dataset.format={next(iter(found))} (for dataset.root only), or remove the others"
        )
    copies = "; ".join(f"{name} ({_listed(found[name])})" for name in others)
    readings[first].notes.append(f"not read, since they have the same objects: {copies}")
    return readings[first]


def _read(tree: Tree, name: str, files: list[str], *, box_base: str, columns: Mapping[str, str]) -> Reading:
    match name:
        case "voc":
            return voc_lists.read(tree, files, box_base=box_base)
        case "coco":
            return coco.read(tree, files)
        case "yolo":
            return yolo.read(tree, files)
        case "labelme":
            return labelme.read(tree, files)
        case "cvat":
            return cvat.read(tree, files)
        case "label_studio":
            return label_studio.read(tree, files)
        case "csv":
            return csv_table.read(tree, files, columns)
        case "open_images":
            return open_images.read(tree, files)
        case "via":
            return via.read(tree, files, columns)
        case _:
            return voc_files.read(tree, files, box_base=box_base)


def _files_by_format(tree: Tree, columns: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the files that each reader finds."""
    return {
        "voc": voc_lists.find(tree),
        "labelimg": voc_files.find(tree),
        "coco": coco.find(tree),
        "yolo": yolo.find(tree),
        "labelme": labelme.find(tree),
        "cvat": cvat.find(tree),
        "label_studio": label_studio.find(tree),
        "csv": csv_table.find(tree, columns),
        "open_images": open_images.find(tree),
        "via": via.find(tree),
    }


def _unknown_files(tree: Tree) -> str:
    """Return the end of the message about a folder without annotations: the first files that may be meant."""
    tables = tree.having(".csv", ".tsv")[:2]
    remarks = [
        f"{path} begins with {_first_line(tree.head(path))!r}: expected the columns filename, xmin, ymin, xmax, ymax, "
        "class, or their names in dataset.columns"
        for path in tables
    ]
    texts = [path for path in tree.having(".txt") if tree.matches_picture(path)]
    filled = next((path for path in texts if tree.head(path).strip()), None)
    if filled is not None:
        line = _first_line(tree.head(filled).strip())
        remarks.append(f"{filled} begins with {line!r}: expected a class number and four fractions (YOLO)")
    elif texts:
        remarks.append(f"all {len(texts)} text files with the names of pictures are empty (first: {texts[0]})")
    remarks += [f"{path} has none of these formats" for path in tree.having(".json", ".xml", ".jsonl", ".parquet")[:2]]
    return "".join(f"; {remark}" for remark in remarks or ["annotate them with a tool that writes one of these"])


def _first_line(head: bytes) -> str:
    return next(iter(head.decode(errors="replace").splitlines()), "")[:LINE_SHOWN]


def _listed(files: Sequence[str]) -> str:
    return files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
