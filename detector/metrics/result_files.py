"""Standard file formats of detections: VOC's comp4 text files and COCO's result JSON.

A VOC file `comp4_det_test_<class>.txt` has one detection a line: image, score, x1 y1 x2 y2 in 1-based inclusive
pixels. A / in the name of a class is %2F in that of its file. A COCO file is a list of {"image_id", "category_id",
"bbox": [x, y, width, height], "score"}, 0-based.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from detector.metrics.tables import DetectionTable, FloatArray, IntArray

PREFIX = "comp4_det_test_"

_log = logging.getLogger(__name__)


def read_voc_results(
    folder: str | Path, image_ids: Sequence[str], classes: Sequence[str], prefix: str = PREFIX
) -> DetectionTable:
    """Read the detections of FOLDER/<prefix><class>.txt for every class. A class without a file is `unsearched`.

    An inverted box (x2 < x1 or y2 < y1) is kept as an empty box, with a warning in the log: the original script counts
    it as a false positive.
    Raises ValueError with file and line for a malformed line or an unknown image, and if no class has a file.
    """
    folder = Path(folder)
    paths = {name: folder / _file_name(prefix, name) for name in classes}
    found = [name for name in classes if paths[name].is_file()]
    if not found:
        raise ValueError(
            f"expected result files such as {paths[classes[0]]}, found none for any of "
            f"{len(classes)} classes; check the folder, and compare the dataset's classes with the file names"
        )
    index = {image_id.encode(): row for row, image_id in enumerate(image_ids)}
    parts = [_read_voc_file(paths[name], index) for name in found]
    images, scores, boxes = (np.concatenate(column) for column in zip(*parts, strict=True))
    labels = np.repeat([classes.index(name) + 1 for name in found], [len(part[0]) for part in parts])
    return DetectionTable(
        image_ids=tuple(image_ids),
        classes=tuple(classes),
        image_index=images,
        boxes=boxes,
        scores=scores,
        labels=labels,
        unsearched=tuple(name for name in classes if name not in found),
    )


def write_voc_results(detections: DetectionTable, folder: str | Path, prefix: str = PREFIX) -> None:
    """Write FOLDER/<prefix><class>.txt for every class that was searched for; the file is empty without detections.

    Numbers have six decimals, as in the devkit's example.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for label, name in enumerate(detections.classes, 1):
        if name in detections.unsearched:
            continue
        rows = np.flatnonzero(detections.labels == label)
        numbers = np.column_stack((detections.scores[rows], detections.boxes[rows] + (1.0, 1.0, 0.0, 0.0)))
        lines = (
            f"{detections.image_ids[image]} {score:.6f} {x1:.6f} {y1:.6f} {x2:.6f} {y2:.6f}\n"
            for image, (score, x1, y1, x2, y2) in zip(
                detections.image_index[rows].tolist(), numbers.tolist(), strict=True
            )
        )
        (folder / _file_name(prefix, name)).write_text("".join(lines), encoding="utf-8")


def _file_name(prefix: str, class_name: str) -> str:
    """Return the name of the file of a class. A file name has no / and no zero byte."""
    return f"{prefix}{class_name.replace('/', '%2F').replace(chr(0), '%00')}.txt"


def read_coco_results(
    path: str | Path, image_ids: Sequence[str], classes: Sequence[str], category_ids: Mapping[int, str]
) -> DetectionTable:
    """Read the detections of a COCO result file. `category_ids` maps the file's category ids to class names.

    Image ids may be numbers or strings. They are compared as text, numbers without leading zeros.
    Raises ValueError with file and entry for a malformed entry or an unknown image or category.
    """
    path = Path(path)
    try:
        entries = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected a COCO result file (a JSON list of detections): {error}") from error
    if not isinstance(entries, list):
        raise ValueError(f"{path}: expected a JSON list of detections, got a {type(entries).__name__}")
    images = {_bare(image_id): row for row, image_id in enumerate(image_ids)}
    labels = {category: classes.index(name) + 1 for category, name in category_ids.items() if name in classes}
    rows = np.zeros((len(entries), 7))
    for number, entry in enumerate(entries):
        try:
            image, label = images[_bare(str(entry["image_id"]))], labels[entry["category_id"]]
            x, y, width, height = map(float, entry["bbox"])
            score = float(entry["score"])
        except KeyError as error:
            raise ValueError(
                f"{path}, entry {number}: key missing, or unknown image or category {error}: {str(entry)[:200]}"
            ) from None
        except (TypeError, ValueError):
            raise ValueError(
                f"{path}, entry {number}: expected image_id, category_id, bbox [x, y, width, height] and score, got "
                f"{str(entry)[:200]}"
            ) from None
        if not (width >= 0 and height >= 0 and score == score):
            raise ValueError(
                f"{path}, entry {number}: expected width and height of at least 0 and a score that is not NaN, got "
                f"{str(entry)[:200]}"
            )
        rows[number] = (image, label, score, x, y, x + width, y + height)
    return DetectionTable(
        image_ids=tuple(image_ids),
        classes=tuple(classes),
        image_index=rows[:, 0].astype(np.int64),
        boxes=rows[:, 3:],
        scores=rows[:, 2],
        labels=rows[:, 1].astype(np.int64),
    )


def write_coco_results(detections: DetectionTable, path: str | Path, category_ids: Mapping[int, str]) -> None:
    """Write a COCO result file at full precision. `category_ids` maps category ids to class names.

    An image id of digits without leading zeros is written as a number, as in COCO's files.
    """
    categories = {name: category for category, name in category_ids.items()}
    entries = [
        {
            "image_id": int(image_id) if _bare(image_id) == image_id and image_id.isdecimal() else image_id,
            "category_id": categories[detections.classes[label - 1]],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for image_id, label, (x1, y1, x2, y2), score in zip(
            (detections.image_ids[row] for row in detections.image_index.tolist()),
            detections.labels.tolist(),
            detections.boxes.tolist(),
            detections.scores.tolist(),
            strict=True,
        )
    ]
    Path(path).write_text(json.dumps(entries))


def _bare(image_id: str) -> str:
    """Return an image id as text, a number without leading zeros."""
    return str(int(image_id)) if image_id.isdecimal() else image_id


def _read_voc_file(path: Path, image_index: Mapping[bytes, int]) -> tuple[IntArray, FloatArray, FloatArray]:
    """Return image rows [D], scores [D] and boxes [D, 4] of one file, parsed in whole columns."""
    data = path.read_bytes()
    spaced = any(b" " in image_id for image_id in image_index)
    tokens = [token for line in data.splitlines() for token in _tokens(line)] if spaced else data.split()
    try:
        images = np.array([image_index[token] for token in tokens[::6]], np.int64)
        columns = [np.array(list(map(float, tokens[column::6]))) for column in range(1, 6)]
        numbers = np.stack(columns, axis=1) if tokens else np.zeros((0, 5))
        valid = bool(np.isfinite(numbers).all()) and len(tokens) == 6 * len(data.strip().splitlines())
    except (KeyError, ValueError):
        valid = False
    if not valid:
        raise _fault(path, data, image_index, _tokens if spaced else bytes.split)
    scores, boxes = numbers[:, 0], numbers[:, 1:] - (1.0, 1.0, 0.0, 0.0)
    if inverted := int(((boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1])).sum()):
        _log.warning("%s: %d boxes have x2 < x1 or y2 < y1; each counts as a false positive", path, inverted)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
    return images, scores, boxes


def _tokens(line: bytes) -> list[bytes]:
    """Return the parts of a line whose image id may have blanks."""
    return line.strip().rsplit(maxsplit=5)


def _fault(
    path: Path, data: bytes, image_index: Mapping[bytes, int], parts_of: Callable[[bytes], list[bytes]]
) -> ValueError:
    """Return the error of the first bad line of a file that could not be parsed as a whole."""
    for number, line in enumerate(data.splitlines(), 1):
        tokens = parts_of(line)
        if not tokens:
            return ValueError(f"{path}, line {number}: expected `image score x1 y1 x2 y2`, got an empty line")
        try:
            finite = all(map(math.isfinite, map(float, tokens[1:])))
        except ValueError:
            finite = False
        if len(tokens) != 6 or not finite:
            text = line.decode(errors="replace")[:100]
            return ValueError(f"{path}, line {number}: expected `image score x1 y1 x2 y2`, got `{text}`")
        if tokens[0] not in image_index:
            name = tokens[0].decode(errors="replace")
            return ValueError(
                f"{path}, line {number}: unknown image {name}, not among the {len(image_index)} images of the split; "
                "choose the split that the file was made on"
            )
    raise AssertionError(f"{path} has no bad line")
