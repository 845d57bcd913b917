"""Writes YOLO's folders: images/train, labels/train, images/val, labels/val and data.yaml. Boxes are fractions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from detector.datasets.images import read_turn
from detector.datasets.writers.sides import Side, copy_pictures, file_stem, new_folder, plain

Fractions = tuple[float, float, float, float]  # centre and size
FOLDERS = {"train": "train", "test": "val"}  # YOLO's programs call the test split val


def write_yolo(folder: Path, sides: Sequence[Side], classes: Sequence[str]) -> list[str]:
    """Write the folders. Return one line about difficult objects, if there are any: the format has no flags.

    Raises ValueError if the folder is not new.
    """
    new_folder(folder)
    copy_pictures(sides, {side.name: folder / "images" / FOLDERS[side.name] for side in sides})
    flagged = 0
    for side in sides:
        labels = folder / "labels" / FOLDERS[side.name]
        labels.mkdir(parents=True)
        for item, file in zip(side.annotations, side.files, strict=True):
            flagged += int(item.difficult.sum())
            # YOLO's programs turn pictures as EXIF says. These boxes are of the picture as stored.
            size, turn = read_turn(file)
            turn = turn if size == (item.width, item.height) and item.width != item.height else 1
            lines = [
                f"{label - 1} {_text(_turned(_fractions(box, item.width, item.height), turn))}\n"
                for box, label in zip(item.boxes.tolist(), item.labels.tolist(), strict=True)
            ]
            (labels / f"{file_stem(item)}.txt").write_text("".join(lines), encoding="utf-8")
    settings = {"train": "images/train", "val": "images/val", "nc": len(classes), "names": list(classes)}
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    (folder / "data.yaml").write_text(text, encoding="utf-8")
    return [f"{flagged} difficult objects become ordinary objects: YOLO has no flags"] if flagged else []


def _text(box: Fractions) -> str:
    return " ".join(map(plain, box))


def _fractions(box: Sequence[float], width: int, height: int) -> Fractions:
    x1, y1, x2, y2 = box
    return (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height


def _turned(box: Fractions, turn: int) -> Fractions:
    """Return a box in the picture turned as the EXIF orientation `turn` says."""
    x, y, width, height = box
    match turn:
        case 5:
            return y, x, height, width
        case 6:
            return 1 - y, x, height, width
        case 7:
            return 1 - y, 1 - x, height, width
        case 8:
            return y, 1 - x, height, width
    return box
