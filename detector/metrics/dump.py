"""The detections of one evaluation in one file, from which every metric can be computed again without the model.

The file is a plain NumPy archive (`numpy.load` opens it, nothing is pickled). It has the columns of a DetectionTable at
full precision: image_ids [N] and classes [K] as text, image_index [D], boxes [D, 4], scores [D], labels [D]. It also
has `about`, a JSON text with the version of the format, the dataset, the settings of post-processing and the hash of
the model.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from detector.metrics.tables import DetectionTable

VERSION = 1
# Column -> allowed kinds of numpy type, number of dimensions.
COLUMNS = {
    "image_ids": ("U", 1),
    "classes": ("U", 1),
    "image_index": ("iu", 1),
    "boxes": ("f", 2),
    "scores": ("f", 1),
    "labels": ("iu", 1),
}


@dataclass(frozen=True, slots=True, eq=False)
class Dump:
    """Detections and where they come from."""

    detections: DetectionTable
    dataset: str  # name and split, for example `voc 2007_test`
    postprocess: dict[str, Any] = field(default_factory=dict)  # thresholds and limits of post-processing
    model: str | None = None  # SHA-256 of the weights; None for detections of other programs


def write_dump(dump: Dump, path: str | Path) -> None:
    """Write a dump atomically: if writing fails, an older file at `path` stays unchanged."""
    path, table = Path(path), dump.detections
    about = {
        "format": "detector dump",
        "version": VERSION,
        "boxes": "xyxy pixels of the original image, 0-based, half-open; label 1 is classes[0]",
        "dataset": dump.dataset,
        "postprocess": dump.postprocess,
        "model": dump.model,
        "unsearched": list(table.unsearched),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            np.savez(
                file,
                image_ids=np.array(table.image_ids, np.str_),
                classes=np.array(table.classes, np.str_),
                image_index=table.image_index,
                boxes=table.boxes,
                scores=table.scores,
                labels=table.labels,
                about=np.array(json.dumps(about)),
            )
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_dump(path: str | Path) -> Dump:
    """Read and check a dump.

    Raises ValueError that names the file and the fault: not a dump, a column missing or of the wrong type, another
    version, an unknown image, a NaN score, an inverted box, a label without a class, an image listed twice.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError(f"the file has one array of shape {archive.shape}")
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # numpy and zipfile raise many types for damaged bytes
        raise ValueError(f"{path}: expected a dump written by `detector eval`: {error}") from error
    try:
        about = json.loads(str(arrays.pop("about")))
        if about["version"] != VERSION:
            raise ValueError(
                f"expected version {VERSION} of the dump format, got {about['version']}; run `detector eval` again"
            )
        for name, (kinds, dimensions) in COLUMNS.items():
            if arrays[name].dtype.kind not in kinds or arrays[name].ndim != dimensions:
                raise ValueError(f"column {name} has type {arrays[name].dtype} and shape {arrays[name].shape}")
        table = DetectionTable(
            image_ids=tuple(arrays["image_ids"].tolist()),
            classes=tuple(arrays["classes"].tolist()),
            image_index=arrays["image_index"].astype(np.int64),
            boxes=arrays["boxes"].astype(np.float64),
            scores=arrays["scores"].astype(np.float64),
            labels=arrays["labels"].astype(np.int64),
            unsearched=tuple(about["unsearched"]),
        )
        return Dump(table, dataset=about["dataset"], postprocess=about["postprocess"], model=about["model"])
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path}: expected a dump written by `detector eval`; missing or malformed: {error}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
