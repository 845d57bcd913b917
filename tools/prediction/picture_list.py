"""The value of `images=`: a picture, a folder, a glob or a list file of pictures, a video or a camera."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
VIDEO_SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"}
CAMERA = "camera:"


def is_moving(images: str) -> bool:
    """Return True if `images` is a video file, or a camera such as camera:0."""
    return images.startswith(CAMERA) or Path(images).suffix.lower() in VIDEO_SUFFIXES


def find_pictures(images: str) -> dict[str, Path]:
    """Return the pictures by file name; by full path if two have the same name.

    A .txt file has one path per line, relative to its folder. A missing picture of such a list is reported when it is
    read. Raises ValueError if there is no picture.
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
    """Return, for each name, a file name without spaces; without suffix if no other name becomes the same."""
    full = {name: "_".join(name.replace("/", " ").split()) for name in names}
    stems = {name: Path(word).stem if Path(word).suffix.lower() in SUFFIXES else word for name, word in full.items()}
    count = Counter(stems.values())
    return {name: stem if count[stem] == 1 else full[name] for name, stem in stems.items()}
