"""What a writer is given, and the pictures that it copies."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from detector.datasets.sample import Annotation


class Side(NamedTuple):
    """One split: annotations and their pictures."""

    name: str  # train or test
    annotations: Sequence[Annotation]
    files: Sequence[Path]


def new_folder(path: Path) -> None:
    """Makes the folder that is written into. Raises ValueError if something is in it."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"output={path}: is there already; give a new folder, nothing is written over")
    path.mkdir(parents=True, exist_ok=True)


def file_stem(annotation: Annotation) -> str:
    """The name of a picture's files; ids that are paths become one name."""
    return annotation.image_id.replace("/", "_")


def copy_pictures(sides: Sequence[Side], folder_of: dict[str, Path]) -> None:
    """Copies the pictures of each side into its folder. Raises ValueError if two would get one name."""
    taken: set[Path] = set()
    for side in sides:
        folder_of[side.name].mkdir(parents=True, exist_ok=True)
        for annotation, file in zip(side.annotations, side.files, strict=True):
            target = folder_of[side.name] / picture_name(annotation, file)
            if target.with_suffix("") in taken:
                raise ValueError(f"{file}: two pictures would be named {target.stem}; rename one of them")
            taken.add(target.with_suffix(""))
            shutil.copyfile(file, target)


def picture_name(annotation: Annotation, file: Path) -> str:
    """The name of a picture's copy."""
    return file_stem(annotation) + file.suffix


def plain(value: float) -> str:
    """A number without needless digits, exact to a float32."""
    return f"{value:.9g}"
