"""Why two AP protocols differ on the same detections: the detections and the points of the curves that cause it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detector.metrics import voc
from detector.metrics.matching import matches, ranking
from detector.metrics.tables import DetectionTable, IntArray, TruthTable
from detector.metrics.voc import PROTOCOLS, Summary


@dataclass(frozen=True, slots=True)
class TurningPoint:
    """A recall of k/10 that a detection reaches under one protocol, but not under the other protocol."""

    name: str  # of the class
    recall: float  # k/10
    detection: int  # row of the detection that reaches this recall exactly


@dataclass(frozen=True, slots=True, eq=False)
class ProtocolDifference:
    """Difference of two protocols on one table of detections.

    If `detections` and `turning_points` are empty, the whole difference comes from the summary of a curve: one protocol
    takes its area, the other takes eleven points.
    """

    protocols: tuple[str, str]
    average_precision: dict[str, tuple[float, float]]  # class -> AP by the first and by the second protocol
    detections: IntArray  # rows judged differently: an overlap of exactly the threshold, and later hits on its object
    objects: IntArray  # rows of the objects that these detections are on
    turning_points: list[TurningPoint]

    def table(self) -> str:
        """Return an aligned plain-text table of the classes that differ, then the causes."""
        names = {name: pair for name, pair in self.average_precision.items() if pair[0] != pair[1]}
        width = max((len(name) for name in names), default=5)
        widths = [max(9, len(name) + 2) for name in self.protocols]
        lines = ["class".ljust(width) + "".join(f"{p:>{w}}" for p, w in zip(self.protocols, widths, strict=True))]
        for name, pair in names.items():
            lines.append(name.ljust(width) + "".join(f"{v:{w}.4f}" for v, w in zip(pair, widths, strict=True)))
        lines.append(
            f"{len(self.detections)} detections on {len(set(self.objects.tolist()))} objects judged differently"
        )
        lines += [f"{p.name}: detection {p.detection} reaches recall {p.recall:g} exactly" for p in self.turning_points]
        return "\n".join(lines)


def compare_protocols(
    detections: DetectionTable, truths: TruthTable, protocols: tuple[str, str], iou_threshold: float = 0.5
) -> ProtocolDifference:
    """Return the AP by class under two of VOC's protocols, and the causes of the difference.

    Raises ValueError for an unknown protocol, and if the tables differ in images or classes.
    """
    results = [voc.evaluate(detections, truths, [name], iou_threshold).results[name] for name in protocols]
    given = detections.aligned(truths)
    order = ranking(given)
    ranked = given.select(order)
    overlap, truth = matches(ranked, truths)
    outcomes = []  # by protocol: [D] 1 right, 0 wrong, -1 ignored
    for name in protocols:
        hit = overlap >= iou_threshold if PROTOCOLS[name].inclusive else overlap > iou_threshold
        right, counted = voc.right_and_counted(np.where(hit, truth, -1), truths.difficult)
        outcomes.append(np.where(counted, right.astype(np.int64), -1))
    differ = outcomes[0] != outcomes[1]

    points: list[TurningPoint] = []
    summaries = [PROTOCOLS[name].summary for name in protocols]
    for label, name in enumerate(truths.classes, 1):
        rows = np.flatnonzero((ranked.labels == label) & (outcomes[0] >= 0))
        # If a detection is judged differently, the two curves differ, and so do all of their points.
        if Summary.area in summaries or name not in results[0].curves or differ[ranked.labels == label].any():
            continue
        starts = [voc.eleven_starts(results[0].curves[name], summary) for summary in summaries]
        turned = np.flatnonzero(starts[0] != starts[1])
        points += [TurningPoint(name, k / 10, int(order[rows[min(starts[0][k], starts[1][k])]])) for k in turned]
    first, second = (result.average_precision for result in results)
    pairs = {name: (first[name], second[name]) for name in first}
    return ProtocolDifference(protocols, pairs, order[differ], truth[differ], points)
