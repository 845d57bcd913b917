"""Average precision of Pascal VOC, in all variants that published results use.

voc07_11point        the 11-point AP of py-faster-rcnn's voc_eval.py, as it runs: overlap > 0.5, and recall thresholds
                     np.arange(0, 1.1, 0.1), of which three are one ulp too large, so a recall of exactly 3/10 fails 0.3
voc07_11point_exact  the same, but recall is compared with k/10 in integers
voc07_11point_devkit the Matlab devkit: overlap >= 0.5, and the thresholds of Matlab's 0:0.1:1
voc_area             the area under the monotone precision envelope (VOC 2010 and later), overlap > 0.5
voc_area_devkit      the same with overlap >= 0.5

In all of them a detection matches only the object that it overlaps most, difficult objects included. If this object
is difficult, the detection is ignored. Otherwise the detection with the best score is right, and every other detection
of the object is wrong. Source: py-faster-rcnn lib/datasets/voc_eval.py; VOCdevkit VOCevaldet.m, VOCap.m.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from detector.metrics.matching import first_claims, matches, ranking
from detector.metrics.tables import BoolArray, DetectionTable, FloatArray, IntArray, TruthTable


class Summary(Enum):
    """Method that summarizes a precision-recall curve in one number."""

    eleven_points = "11 points of np.arange(0, 1.1, 0.1)"
    eleven_points_exact = "11 points k/10, compared exactly"
    eleven_points_matlab = "11 points of Matlab's 0:0.1:1"
    area = "area under the precision envelope"


@dataclass(frozen=True, slots=True)
class APProtocol:
    """A rule for average precision."""

    name: str
    summary: Summary
    inclusive: bool  # whether an overlap of exactly the threshold is enough


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        APProtocol("voc07_11point", Summary.eleven_points, inclusive=False),
        APProtocol("voc07_11point_exact", Summary.eleven_points_exact, inclusive=False),
        APProtocol("voc07_11point_devkit", Summary.eleven_points_matlab, inclusive=True),
        APProtocol("voc_area", Summary.area, inclusive=False),
        APProtocol("voc_area_devkit", Summary.area, inclusive=True),
    )
}


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Precision and recall of one class after each detection that counts, best score first."""

    scores: FloatArray  # [D] falling
    true_positives: IntArray  # [D] number up to and including this detection
    num_truths: int  # objects that are not difficult

    @property
    def recall(self) -> FloatArray:
        """Recall [D], in [0, 1]."""
        return self.true_positives / float(self.num_truths)

    @property
    def precision(self) -> FloatArray:
        """Precision [D], in [0, 1]."""
        return self.true_positives / np.arange(1.0, len(self.true_positives) + 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class ProtocolResult:
    """One protocol's AP of every class that has objects and was searched for."""

    protocol: APProtocol
    average_precision: dict[str, float]
    curves: dict[str, Curve]

    @property
    def mean(self) -> float | None:
        """The mean AP; None if no class has an AP."""
        values = list(self.average_precision.values())
        return float(np.mean(values)) if values else None


@dataclass(frozen=True, slots=True, eq=False)
class VOCResult:
    """AP by protocol, and the names of the classes without an AP."""

    classes: tuple[str, ...]
    iou_threshold: float
    results: dict[str, ProtocolResult]  # by the protocol's name
    without_truth: tuple[str, ...]  # no object that is not difficult
    unsearched: tuple[str, ...]  # no result file

    @property
    def num_scored(self) -> int:
        """Number of classes in the mean."""
        return len(self.classes) - len(set(self.without_truth) | set(self.unsearched))

    @property
    def coverage(self) -> str:
        """The classes in the mean as text, for example `19 of 20 classes`."""
        total = len(self.classes)
        return f"{total} classes" if self.num_scored == total else f"{self.num_scored} of {total} classes"

    def to_json(self) -> dict[str, Any]:
        """{"voc07_11point": {"mAP": x, "AP": {"class": x}, "classes": "20 classes"}, ...}."""
        left_out = {"without_ground_truth": self.without_truth, "without_detections_file": self.unsearched}
        return {
            name: {"mAP": result.mean, "AP": dict(result.average_precision), "classes": self.coverage}
            | {reason: list(names) for reason, names in left_out.items() if names}
            for name, result in self.results.items()
        }

    def table(self) -> str:
        """Return an aligned plain-text table: a row for each class, then the mean; a column for each protocol."""
        width = max(len(name) for name in (*self.classes, f"mean of {self.coverage}"))
        columns = list(self.results)
        lines = [f"{f'AP at IoU {self.iou_threshold:g}':<{width}}  " + "  ".join(columns)]
        for name in self.classes:
            if name in self.unsearched:
                lines.append(f"{name:<{width}}  left out: no detections file")
            elif name in self.without_truth:
                lines.append(f"{name:<{width}}  left out: no ground truth")
            else:
                values = (f"{self.results[c].average_precision[name]:{len(c)}.4f}" for c in columns)
                lines.append(f"{name:<{width}}  " + "  ".join(values))
        means = ((self.results[c].mean, len(c)) for c in columns)
        cells = (f"{'none':>{size}}" if mean is None else f"{mean:{size}.4f}" for mean, size in means)
        lines.append(f"{f'mean of {self.coverage}':<{width}}  " + "  ".join(cells))
        return "\n".join(line.rstrip() for line in lines)


def evaluate(
    detections: DetectionTable,
    truths: TruthTable,
    protocols: Sequence[str] = ("voc07_11point", "voc_area"),
    iou_threshold: float = 0.5,
) -> VOCResult:
    """Return the average precision of every class by each of the named protocols.

    Raises ValueError for an unknown protocol, and if the tables differ in images or classes.
    """
    if unknown := [name for name in protocols if name not in PROTOCOLS]:
        raise ValueError(f"expected protocols among {', '.join(PROTOCOLS)}, got {unknown[0]}")
    detections = detections.aligned(truths)
    detections = detections.select(ranking(detections))
    overlap, truth = matches(detections, truths)
    curves: dict[bool, dict[str, Curve]] = {}
    for inclusive in {PROTOCOLS[name].inclusive for name in protocols}:
        hit = overlap >= iou_threshold if inclusive else overlap > iou_threshold
        curves[inclusive] = _curves(detections, truths, np.where(hit, truth, -1))
    num_truths = _objects_by_class(truths)
    results = {}
    for name in protocols:
        protocol = PROTOCOLS[name]
        found = curves[protocol.inclusive]
        scored = {key: average_precision(curve, protocol.summary) for key, curve in found.items()}
        results[name] = ProtocolResult(protocol, scored, found)
    return VOCResult(
        classes=truths.classes,
        iou_threshold=iou_threshold,
        results=results,
        without_truth=tuple(name for name, count in zip(truths.classes, num_truths, strict=True) if count == 0),
        unsearched=detections.unsearched,
    )


def right_and_counted(ranked_truth_rows: IntArray, difficult: BoolArray) -> tuple[BoolArray, BoolArray]:
    """Return masks [D] of true positives and of detections that count.

    `ranked_truth_rows` [D] is the row of the object that each detection hit, -1 for none, sorted by falling score.
    Detections on `difficult` [G] objects do not count.
    """
    hit = ranked_truth_rows >= 0
    ignored = np.zeros(len(hit), np.bool_)
    ignored[hit] = difficult[ranked_truth_rows[hit]]
    return first_claims(ranked_truth_rows, len(difficult)) & ~ignored, ~ignored


def average_precision(curve: Curve, summary: Summary) -> float:
    """Return the AP of one class, in [0, 1]."""
    if summary is Summary.area:
        recall = np.concatenate(([0.0], curve.recall, [1.0]))
        envelope = np.concatenate(([0.0], _envelope(curve), [0.0]))
        steps = np.flatnonzero(recall[1:] != recall[:-1]) + 1
        return float(np.sum((recall[steps] - recall[steps - 1]) * envelope[steps]))
    envelope = np.append(_envelope(curve), 0.0)
    total = 0.0
    for start in eleven_starts(curve, summary):
        total += float(envelope[start]) / 11.0  # the original's order of summation
    return total


def eleven_starts(curve: Curve, summary: Summary) -> IntArray:
    """Return [11]: the first detection at which recall reaches k/10, len(curve.scores) if it never does."""
    match summary:
        case Summary.eleven_points:
            return np.searchsorted(curve.recall, np.arange(0.0, 1.1, 0.1))
        case Summary.eleven_points_matlab:
            # Matlab's colon operator counts from both ends to the middle, so 0.6 and 0.7 are rounded down.
            rising = np.arange(5) * 0.1
            return np.searchsorted(curve.recall, np.concatenate((rising, [0.5], 1.0 - rising[::-1])))
        case _:
            return np.searchsorted(10 * curve.true_positives, np.arange(11) * curve.num_truths)


def _envelope(curve: Curve) -> FloatArray:
    """Return [D]: the best precision at this recall or a higher one."""
    return np.maximum.accumulate(curve.precision[::-1])[::-1]


def _curves(ranked: DetectionTable, truths: TruthTable, truth_rows: IntArray) -> dict[str, Curve]:
    """Return the curve of every class that has objects and was searched for.

    `ranked` is sorted by class, then by falling score.
    """
    right, counted = right_and_counted(truth_rows, truths.difficult)
    right, scores, labels = right[counted], ranked.scores[counted], ranked.labels[counted]
    ends = np.searchsorted(labels, np.arange(len(truths.classes) + 1), side="right")
    return {
        name: Curve(
            scores=scores[ends[index] : ends[index + 1]],
            true_positives=np.cumsum(right[ends[index] : ends[index + 1]], dtype=np.int64),
            num_truths=int(count),
        )
        for index, (name, count) in enumerate(zip(truths.classes, _objects_by_class(truths), strict=True))
        if count and name not in ranked.unsearched
    }


def _objects_by_class(truths: TruthTable) -> IntArray:
    """Return [K]: the number of objects of each class that are not difficult."""
    return np.bincount(truths.labels[~truths.difficult] - 1, minlength=len(truths.classes))
