"""The input of the writers, and the copying of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from detector.datasets.sample import Annotation
from detector.datasets.tar_shards import File


class Side(NamedTuple):
    """One split: annotations and their pictures."""

    name: str  # train or test
    annotations: Sequence[Annotation]
    files: Sequence[File]


def new_folder(path: Path) -> None:
    """Make the output folder. Raises ValueError if it is not empty."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"output={path} already exists; expected a new folder, since nothing is overwritten")
    path.mkdir(parents=True, exist_ok=True)


def file_stem(annotation: Annotation) -> str:
    """Return the stem of a picture's files. In an id that is a path, / becomes _."""
    return annotation.image_id.replace("/", "_")


def copy_pictures(sides: Sequence[Side], folder_of: dict[str, Path]) -> None:
    """Copy the pictures of each split into its folder. Raises ValueError if two would get the same name."""
    taken: set[Path] = set()
    for side in sides:
        folder_of[side.name].mkdir(parents=True, exist_ok=True)
        for annotation, file in zip(side.annotations, side.files, strict=True):
            target = folder_of[side.name] / picture_name(annotation, file)
            if target.with_suffix("") in taken:
                raise ValueError(f"{file}: two pictures would get the name {target.stem}; rename one of them")
            taken.add(target.with_suffix(""))
            target.write_bytes(file.read_bytes())


def picture_name(annotation: Annotation, file: File) -> str:
    """Return the file name of a picture's copy."""
    return file_stem(annotation) + file.suffix


def plain(value: float) -> str:
    """Return a number as text with as few digits as a float32 needs."""
    return f"{value:.9g}"
