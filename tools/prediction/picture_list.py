"""What `images=` names: a picture, a folder of them, a glob, or a list file; and whether it is a video or a camera."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
VIDEO_SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"}
CAMERA = "camera:"


def is_moving(images: str) -> bool:
    """Whether `images` is a video file, or a camera as camera:0."""
    return images.startswith(CAMERA) or Path(images).suffix.lower() in VIDEO_SUFFIXES


def find_pictures(images: str) -> dict[str, Path]:
    """Pictures by file name, or by their whole path where two have one name.

    A .txt holds a path a line, relative to the file itself. Files that a list names need not exist: they are missed
    when read. Raises ValueError where nothing is named.
    """
    path = Path(images)
    if path.suffix.lower() == ".txt":
        if not path.is_file():
            raise ValueError(f"images={images}: no such list; give a .txt with the path of a picture on each line")
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        found = [path.parent / line.strip() for line in lines if line.strip()]
    elif path.is_dir():
        found = sorted(item for item in path.iterdir() if item.suffix.lower() in SUFFIXES)
    elif path.exists():
        found = [path]
    else:
        found = sorted(Path(item) for item in glob.glob(images, recursive=True) if Path(item).is_file())
    if not found:
        raise ValueError(f"images={images}: expected a picture, a folder, a glob, a list or a video; found no picture")
    found = list(dict.fromkeys(found))
    count = Counter(item.name for item in found)
    return {item.name if count[item.name] == 1 else str(item): item for item in found}


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Each name as one word that may name a file: without suffix where no other one is the same then."""
    words = {name: "_".join(name.replace("/", " ").split()) for name in names}
    stems = {
        name: word if Path(word).suffix.lower() not in SUFFIXES else Path(word).stem for name, word in words.items()
    }
    count = Counter(stems.values())
    return {name: stem if count[stem] == 1 else words[name] for name, stem in stems.items()}
