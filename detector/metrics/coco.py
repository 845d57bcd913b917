"""COCO's twelve numbers, from the same tables, by pycocotools or, where it is installed, by faster-coco-eval.

Difficult objects become crowds, the one kind of object that COCO ignores: its evaluator overwrites an `ignore` flag.
Beware that a crowd is matched by intersection over the detection's area, and by any number of detections, so that on
VOC data COCO's AP50 forgives a little more than VOC's own rule. `difficult="object"` counts them as plain objects.
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
    """COCO's numbers; None where no object counts, which COCO prints as -1."""

    statistics: dict[str, float | None]  # the twelve, by the names in STATISTICS
    average_precision: dict[str, float | None]  # AP at IoU .5:.05:.95 of every class that was looked for
    backend: Backend
    difficult: Literal["crowd", "object"]

    def to_json(self) -> dict[str, Any]:
        """{"coco": {"AP": x, ..., "ARl": x, "AP by class": {"class": x}, "backend": name, "difficult": policy}}."""
        by_class = {"AP by class": self.average_precision}
        return {"coco": {**self.statistics, **by_class, "backend": self.backend, "difficult": self.difficult}}

    def table(self) -> str:
        """An aligned plain-text table, one number a line."""
        lines = [f"COCO by {self.backend}, difficult objects as {self.difficult}s"]
        for name, value in self.statistics.items():
            lines.append(f"{name:<6}{'none' if value is None else f'{value:.4f}':>8}")
        return "\n".join(lines)


def installed_backend() -> Backend:
    """faster-coco-eval where it is installed (the extra `coco`), otherwise pycocotools."""
    return "faster-coco-eval" if importlib.util.find_spec("faster_coco_eval") else "pycocotools"


def evaluate(
    detections: DetectionTable,
    truths: TruthTable,
    backend: Backend | None = None,
    difficult: Literal["crowd", "object"] = "crowd",
) -> COCOResult:
    """COCO's numbers over IoU .5:.05:.95, at most 100 detections an image and class, box areas for the size ranges.

    The area of an object is `truths.areas` where given, else its box's. `backend` None takes the faster one that is
    installed; both give the same numbers. Nothing is printed.
    Raises ValueError where the tables differ in images or classes, and for a backend that is not installed.
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
    """A COCOeval of the chosen package over two datasets in COCO's own form."""
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
    """As COCO.loadRes would make it, less the outlines that boxes do not need."""
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
