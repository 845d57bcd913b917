"""Reads COCO's JSON: one file per split, beside the pictures (Roboflow) or in a separate folder."""

from __future__ import annotations

from pathlib import PurePosixPath

from detector.datasets.coco_json import notes_of, read_coco
from detector.datasets.readers.collect import Collection, find_picture
from detector.datasets.readers.json_kinds import json_files
from detector.datasets.readers.tree import Tree, split_of, split_of_list
from detector.datasets.records import Reading

OTHERS = ("caption", "keypoint", "panoptic", "image_info", "stuff")  # in the names of COCO's files for other tasks


def find(tree: Tree) -> list[str]:
    """Return the annotation files, with empty ones, which are faults.

    Of the files that COCO publishes together, return those of instances.
    """
    files = json_files(tree, "coco")
    files += tree.blank(".json") if files else []
    if any("instances" in PurePosixPath(path).name for path in files):
        return [path for path in files if not any(word in PurePosixPath(path).name for word in OTHERS)]
    return files


def read(tree: Tree, files: list[str]) -> Reading:
    """Read the files. Raises ValueError if their categories differ, since labels would have different meanings."""
    found = Collection(tree)
    contents = {path: read_coco(tree.full(path)) for path in files}
    largest = max(contents.values(), key=lambda content: len(content.categories))
    classes = tuple(largest.categories.values())
    for content in contents.values():
        other = set(content.categories.values()) - set(classes)
        if other:
            raise ValueError(
                f"{content.path}: its categories are not those of {largest.path}: {', '.join(sorted(other))} not "
                f"in {', '.join(classes)}; use the same categories in all files"
            )
    for path, content in contents.items():
        split = split_of_list(path)
        found.faults += content.faults
        for image in content.images:
            try:
                picture = find_picture(tree, image.file_name, path, split)
            except ValueError as error:  # noqa: PERF203
                found.fault(image.image_id, error)
            else:
                found.add(picture, content.path, image.size, image.objects, split or split_of(picture))
    found.notes += notes_of(list(contents.values()))
    found.note_left_out("are in no annotation file")
    names = ", ".join(files[:4]) + (" ..." if len(files) > 4 else "")
    return found.reading(f"COCO JSON: {len(found)} pictures, {names}", classes)
