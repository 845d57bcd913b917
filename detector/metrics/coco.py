"""COCO's twelve statistics from the same tables, computed by faster-coco-eval if installed, else by pycocotools.

COCO ignores only crowds (its evaluator overwrites an `ignore` flag), so difficult objects become crowds. Caution: COCO
matches a crowd by intersection over the detection's area, and any number of detections can match it. So on VOC data
COCO's AP50 is a little more tolerant than VOC's rule. `difficult="object"` counts difficult objects as normal objects.
Source: pycocotools cocoeval.py.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from detector.metrics.tables import DetectionTable, TruthTable

STATISTICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")

Backend = Literal["pycocotools", "faster-coco-eval"]


@dataclass(frozen=True, slots=True)
class COCOResult:
    """COCO's statistics. None, for which COCO prints -1, means that no object counts."""

    statistics: dict[str, float | None]  # by the names in STATISTICS
    average_precision: dict[str, float | None]  # AP at IoU .5:.05:.95 of every class that was searched for
    backend: Backend
    difficult: Literal["crowd", "object"]

    def to_json(self) -> dict[str, Any]:
        """{"coco": {"AP": x, ..., "ARl": x, "AP by class": {"class": x}, "backend": name, "difficult": policy}}."""
        by_class = {"AP by class": self.average_precision}
        return {"coco": {**self.statistics, **by_class, "backend": self.backend, "difficult": self.difficult}}

    def table(self) -> str:
        """Return an aligned plain-text table, one statistic a line."""
        lines = [f"COCO by {self.backend}, difficult objects as {self.difficult}s"]
        for name, value in self.statistics.items():
            lines.append(f"{name:<6}{'none' if value is None else f'{value:.4f}':>8}")
        return "\n".join(lines)


def installed_backend() -> Backend:
    """Return faster-coco-eval if it is installed (the extra `coco`), else pycocotools."""
    return "faster-coco-eval" if importlib.util.find_spec("faster_coco_eval") else "pycocotools"


def evaluate(
    detections: DetectionTable,
    truths: TruthTable,
    backend: Backend | None = None,
    difficult: Literal["crowd", "object"] = "crowd",
) -> COCOResult:
    """Return COCO's statistics over IoU .5:.05:.95, with at most 100 detections for each image and class.

    The size ranges use `truths.areas` if given, else the areas of the boxes. `backend` None means the faster one that
    is installed. Both backends give the same numbers. Nothing is printed.
    Raises ValueError if the tables differ in images or classes, and for a backend that is not installed.
    """
    backend = backend or installed_backend()
    detections = detections.aligned(truths)
    objects, results = _coco_dataset(truths, difficult), _coco_results(detections, truths)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = _evaluator(objects, results, backend)
        searched = [label for label, name in enumerate(truths.classes, 1) if name not in detections.unsearched]
        evaluator.params.catIds = searched
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    precision = np.asarray(evaluator.eval["precision"])[:, :, :, 0, -1]  # [thresholds, recalls, classes]
    means = [_defined(np.mean(part[part > -1])) if (part > -1).any() else None for part in np.moveaxis(precision, 2, 0)]
    return COCOResult(
        statistics=dict(zip(STATISTICS, map(_defined, np.asarray(evaluator.stats)[:12]), strict=True)),
        average_precision={truths.classes[label - 1]: mean for label, mean in zip(searched, means, strict=True)},
        backend=backend,
        difficult=difficult,
    )


def _evaluator(objects: dict[str, Any], results: dict[str, Any], backend: Backend) -> Any:
    """Return a COCOeval of the chosen package for two datasets in COCO's format."""
    if backend == "faster-coco-eval":
        if installed_backend() != backend:
            raise ValueError("faster-coco-eval is not installed: pip install 'fast-rfcn[coco]', or use pycocotools")
        from faster_coco_eval import COCO, COCOeval_faster

        return COCOeval_faster(COCO(objects), COCO(results), "bbox", print_function=lambda *_: None)
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truths, found = COCO(), COCO()
    for index, dataset in ((truths, objects), (found, results)):
        index.dataset = dataset  # pyright: ignore[reportAttributeAccessIssue]
        index.createIndex()
    return COCOeval(truths, found, "bbox")


def _coco_dataset(truths: TruthTable, difficult: str) -> dict[str, Any]:
    crowds = truths.difficult if difficult == "crowd" else np.zeros(len(truths), np.bool_)
    extents = truths.boxes[:, 2:] - truths.boxes[:, :2]
    areas = extents.prod(axis=1) if truths.areas is None else truths.areas
    columns = (truths.image_index, truths.labels, truths.boxes[:, :2], extents, areas, crowds)
    return {
        "info": {},
        "images": [{"id": index} for index in range(len(truths.image_ids))],
        "categories": [{"id": label, "name": name} for label, name in enumerate(truths.classes, 1)],
        "annotations": [
            {
                "id": row,
                "image_id": image,
                "category_id": label,
                "bbox": corner + extent,
                "area": area,
                "iscrowd": int(crowd),
            }
            for row, (image, label, corner, extent, area, crowd) in enumerate(
                zip(*(column.tolist() for column in columns), strict=True), 1
            )
        ],
    }


def _coco_results(detections: DetectionTable, truths: TruthTable) -> dict[str, Any]:
    """Return the dataset that COCO.loadRes makes, without the outlines, which boxes do not need."""
    extents = detections.boxes[:, 2:] - detections.boxes[:, :2]
    columns = (detections.image_index, detections.labels, detections.boxes[:, :2], extents, detections.scores)
    return {
        **_coco_dataset(truths, "object"),
        "annotations": [
            {
                "id": row,
                "image_id": image,
                "category_id": label,
                "bbox": corner + extent,
                "area": extent[0] * extent[1],
                "score": score,
                "iscrowd": 0,
            }
            for row, (image, label, corner, extent, score) in enumerate(
                zip(*(column.tolist() for column in columns), strict=True), 1
            )
        ],
    }


def _defined(value: float) -> float | None:
    return float(value) if value > -1 else None
