"""What one evaluation found, in one file from which every metric is computed again without the model.

The file is a plain NumPy archive (`numpy.load` opens it, nothing is pickled) of the columns of a DetectionTable at
full precision: image_ids [N] and classes [K] as text, image_index [D], boxes [D, 4], scores [D], labels [D]; and
`about`, a JSON text with the format's version, the dataset, the settings of post-processing and the model's hash.
"""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from detector.metrics.tables import DetectionTable

VERSION = 1
# Column -> kinds of numpy type that it may have, and its dimensions.
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
    """Detections with what one must know to read them."""

    detections: DetectionTable
    dataset: str  # name and split, for example `voc 2007_test`
    postprocess: dict[str, Any] = field(default_factory=dict)  # thresholds and limits that shaped the detections
    model: str | None = None  # SHA-256 of the weights; None for detections that came from elsewhere


def write_dump(dump: Dump, path: str | Path) -> None:
    """Write a dump so that `path` holds either the whole file or what it held before."""
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

    Raises ValueError naming the file and the fault: not a dump, a column missing or of the wrong type, another
    version, an unknown image, a NaN score, an inverted box, a label without a class, an image listed twice.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError(f"it holds one array of shape {archive.shape}")
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: expected a dump written by `detector eval`: {error}") from error
    try:
        about = json.loads(str(arrays.pop("about")))
        if about["version"] != VERSION:
            raise ValueError(f"its version is {about['version']}, this program reads version {VERSION}")
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
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: expected a dump written by `detector eval`; missing or malformed: {error}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
