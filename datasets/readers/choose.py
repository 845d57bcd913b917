"""Detects the format of a folder. If several readers find files, the user has to choose one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detector.datasets.readers import (
    coco,
    csv_table,
    cvat,
    label_studio,
    labelme,
    open_images,
    voc_files,
    voc_lists,
    yolo,
)
from detector.datasets.readers.tree import Tree
from detector.datasets.records import Reading

LINE_SHOWN = 60  # letters of an unknown table that a message shows


def read_folder(tree: Tree, format_: str, *, box_base: str, columns: Mapping[str, str]) -> Reading:
    """Return the records of a folder in the given format, or for "auto" in the format that is found.

    Raises ValueError if no format is found, or several.
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
        formats = "; ".join(f"{name} ({_listed(files)})" for name, files in found.items())
        raise ValueError(
            f"{tree.setting}: annotations in several formats: {formats}; choose one with "
            f"dataset.format={next(iter(found))} (for dataset.root only), or remove the others"
        )
    ((name, files),) = found.items()
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
    }


def _unknown_files(tree: Tree) -> str:
    """Return the end of the message about a folder without annotations: the first files that may be meant."""
    tables = tree.having(".csv", ".tsv")[:2]
    remarks = [
        f"{path} begins with {_first_line(tree.head(path))!r}: expected the columns filename, xmin, ymin, xmax, ymax, "
        "class, or their names in dataset.columns"
        for path in tables
    ]
    remarks += [f"{path} has none of these formats" for path in tree.having(".json", ".xml", ".jsonl", ".parquet")[:2]]
    return "".join(f"; {remark}" for remark in remarks)


def _first_line(head: bytes) -> str:
    return next(iter(head.decode(errors="replace").splitlines()), "")[:LINE_SHOWN]


def _listed(files: Sequence[str]) -> str:
    return files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
