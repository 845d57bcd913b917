"""Write predictions as JSON, CSV, VOC's comp4 text files or COCO's result JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from detector.configs.schema import ResultFormat
from detector.engine.checkpoint import write_atomically
from detector.metrics.result_files import write_coco_results, write_voc_results
from detector.metrics.tables import DetectionTable
from detector.structures import Detections
from detector.tools.prediction.picture_list import short_names


def write_predictions(
    folder: Path,
    found: Mapping[str, Detections],
    classes: Sequence[str],
    formats: Collection[ResultFormat],
    unreadable: Mapping[str, str],
) -> list[Path]:
    """Write the detections of every picture in each format, and return the paths.

    Boxes in detections.json and detections.csv are 0-based and half-open; in voc/comp4_det_test_CLASS.txt they are
    VOC's 1-based; in coco_results.json they are [x, y, width, height], with category k for the k-th class.
    """
    table = DetectionTable.from_detections(list(found.values()), list(short_names(found).values()), tuple(classes))
    written = []
    for kind in formats:
        match kind:
            case ResultFormat.json:
                written.append(folder / "detections.json")
                _write_json(written[-1], found, classes, unreadable)
            case ResultFormat.csv:
                written.append(folder / "detections.csv")
                _write_csv(written[-1], found, classes)
            case ResultFormat.voc:
                written.append(folder / "voc")
                write_voc_results(table, written[-1])
            case ResultFormat.coco:
                written.append(folder / "coco_results.json")
                write_coco_results(table, written[-1], dict(enumerate(classes, 1)))
    return written


def to_rows(detections: Detections, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return detections as plain values: class name, score, box [x1, y1, x2, y2]."""
    return [
        {"class": classes[label - 1], "score": round(score, 6), "box": [round(value, 3) for value in box]}
        for box, score, label in zip(
            detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True
        )
    ]


def _write_json(
    path: Path, found: Mapping[str, Detections], classes: Sequence[str], unreadable: Mapping[str, str]
) -> None:
    content = {
        "box": "x1 y1 x2 y2, pixels, 0-based, half-open",
        "classes": list(classes),
        "images": {name: to_rows(detections, classes) for name, detections in found.items()},
        "unreadable": dict(unreadable),
    }
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def _write_csv(path: Path, found: Mapping[str, Detections], classes: Sequence[str]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "class", "score", "x1", "y1", "x2", "y2"))
        for name, detections in found.items():
            writer.writerows((name, row["class"], row["score"], *row["box"]) for row in to_rows(detections, classes))
