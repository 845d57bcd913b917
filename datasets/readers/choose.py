"""Which format a folder has. One reader must claim it; where several do the user chooses."""

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


def read_folder(tree: Tree, format_: str, *, box_base: str, columns: Mapping[str, str]) -> Reading:
    """The records of a folder in the format of this name, or for "auto" in the one that is found.

    Raises ValueError if there is none, or several.
    """
    claims = _claims(tree, columns)
    found = {name: files for name, files in claims.items() if format_ in ("auto", name) and files}
    if "voc" in found:
        found.pop("labelimg", None)  # the same files, without the lists
    if not found:
        what = "of a known format" if format_ == "auto" else f"of dataset.format={format_}"
        others = [name for name, files in claims.items() if files]
        seen = f"there is {', '.join(others)}" if others else f"known: {', '.join(claims)}"
        raise ValueError(f"dataset.root={tree.root}: {len(tree.pictures)} pictures, but no annotations {what}; {seen}")
    if len(found) > 1:
        told = "; ".join(f"{name} ({_told(files)})" for name, files in found.items())
        raise ValueError(
            f"dataset.root={tree.root}: annotations of several formats: {told}; choose one with "
            f"dataset.format={next(iter(found))}, or take the others away"
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


def _claims(tree: Tree, columns: Mapping[str, str]) -> dict[str, list[str]]:
    """The files that each reader would read."""
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


def _told(files: Sequence[str]) -> str:
    return files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
