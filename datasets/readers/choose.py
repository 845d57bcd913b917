"""Which format a folder has. One reader must claim it; where several do the user chooses."""

from __future__ import annotations

from collections.abc import Sequence

from detector.datasets.readers import voc_files, voc_lists
from detector.datasets.readers.tree import Tree
from detector.datasets.records import Reading

NAMES = ("voc", "labelimg")


def read_folder(tree: Tree, format_: str, *, box_base: str) -> Reading:
    """The records of a folder in the format of this name, or for "auto" in the one that is found.

    Raises ValueError if there is none, or several.
    """
    found = {name: files for name, files in _found(tree).items() if format_ in ("auto", name) and files}
    if "voc" in found:
        found.pop("labelimg", None)  # the same files, without the lists
    if not found:
        what = (
            "no annotations of a known format" if format_ == "auto" else f"no annotations of dataset.format={format_}"
        )
        raise ValueError(
            f"dataset.root={tree.root}: {len(tree.pictures)} pictures, but {what}; known: {', '.join(NAMES)}"
        )
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
        case _:
            return voc_files.read(tree, files, box_base=box_base)


def _found(tree: Tree) -> dict[str, list[str]]:
    return {"voc": voc_lists.find(tree), "labelimg": voc_files.find(tree)}


def _told(files: Sequence[str]) -> str:
    return files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
