"""Error analysis (TIDE): one cause for each false positive and each missed object, and the mAP that each cause costs.

Let t be the IoU threshold of a right detection (0.5) and b = 0.1. A false positive has the first cause that applies:
  localisation    on an object of its class, b <= IoU <= t
  classification  on an object of another class, IoU >= t
  duplicate       on an object of its class that a detection with a better score found, IoU > t
  background      IoU <= b with every object
  both            the rest: on an object of another class, b < IoU < t
An object is missed if no detection found it and no localisation or classification error is assigned to it.

The cost of a cause (dAP) is the mAP gained if an oracle fixes only this cause. The oracle corrects boxes and classes,
and removes duplicates, background, `both` and missed objects. An object is found once: of all errors assigned to it,
the oracle corrects the one with the best score and removes the others. A detection on a difficult object is ignored,
and no error is assigned to a difficult object.
Source: Bolya et al., TIDE, ECCV 2020, with VOC's matching in place of COCO's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from detector.metrics.matching import first_claims, matches, matches_of_other_classes, ranking
from detector.metrics.tables import BoolArray, DetectionTable, FloatArray, IntArray, TruthTable
from detector.metrics.voc import PROTOCOLS, Curve, Summary, average_precision, right_and_counted

BACKGROUND_IOU = 0.1


class Outcome(IntEnum):
    """Result of a detection: right, ignored, or the cause of its error."""

    right = 0
    ignored = 1  # on a difficult object
    classification = 2
    localisation = 3
    both = 4
    duplicate = 5
    background = 6


CAUSES = (*(outcome.name for outcome in Outcome if outcome > Outcome.ignored), "missed")


@dataclass(frozen=True, slots=True, eq=False)
class ErrorSplit:
    """The errors of a detector: totals for each cause, and the outcome of each detection and object."""

    protocol: str
    mean: float  # mAP by the protocol
    delta_ap: dict[str, float]  # cause -> mAP gained by fixing only it; also `false positives`, `false negatives`
    count: dict[str, int]  # cause -> number of detections, or of objects for `missed`
    outcomes: IntArray  # [D] Outcome of every detection, in the row order of the input table
    objects: IntArray  # [D] row of the object that the detection is on, -1 for none
    missed: BoolArray  # [G]

    def to_json(self) -> dict[str, Any]:
        """{"errors": {"protocol": name, "mAP": x, "dAP": {cause: x}, "count": {cause: n}}}."""
        split = {"protocol": self.protocol, "mAP": self.mean, "dAP": dict(self.delta_ap), "count": dict(self.count)}
        return {"errors": split}

    def table(self) -> str:
        """Return an aligned plain-text table: a row for each cause."""
        lines = [f"{f'{self.protocol} mAP {self.mean:.4f}':<28}{'dAP':>8}{'count':>9}"]
        for cause, delta in self.delta_ap.items():
            lines.append(f"{cause:<28}{delta:8.4f}{self.count[cause]:9d}")
        return "\n".join(lines)


def split_errors(
    detections: DetectionTable, truths: TruthTable, protocol: str = "voc_area", iou_threshold: float = 0.5
) -> ErrorSplit:
    """Return the outcome of every detection, the missed objects, and the mAP that each cause costs.

    If all objects of a class are missed, removing them leaves the AP of this class at 0.
    Raises ValueError if the tables differ in images or classes, or all objects are difficult.
    """
    given = detections.aligned(truths)
    order = ranking(given)
    if given.unsearched:  # classes without a result file are neither scored nor missed
        order = order[~np.isin(given.labels[order], [truths.classes.index(name) + 1 for name in given.unsearched])]
    ranked = given.select(order)
    scored = np.array([name not in given.unsearched for name in truths.classes])
    counted_truths = ~truths.difficult & scored[truths.labels - 1]
    if not counted_truths.any():
        raise ValueError("expected at least one object that is not difficult, got none")

    hit_iou, hit_row = matches(ranked, truths)
    hit = hit_iou >= iou_threshold if PROTOCOLS[protocol].inclusive else hit_iou > iou_threshold
    right, counted = right_and_counted(np.where(hit, hit_row, -1), truths.difficult)
    plain = np.flatnonzero(~truths.difficult)  # errors are never assigned to difficult objects
    own_iou, own = matches(ranked, truths.select(plain))
    other_iou, other = matches_of_other_classes(ranked, truths.select(plain))
    localisation = ~hit & (own_iou >= BACKGROUND_IOU)
    outcomes = np.select(
        [right, ~counted, localisation, other_iou >= iou_threshold, hit, other_iou > BACKGROUND_IOU],
        [Outcome.right, Outcome.ignored, Outcome.localisation, Outcome.classification, Outcome.duplicate, Outcome.both],
        Outcome.background,
    )
    assigned = np.where(hit, hit_row, -1)
    for kind, rows in ((localisation, own), (np.isin(outcomes, (Outcome.classification, Outcome.both)), other)):
        assigned[kind] = plain[rows[kind]]

    found = np.zeros(len(truths), np.bool_)
    found[assigned[right]] = True
    fixable = np.isin(outcomes, (Outcome.localisation, Outcome.classification))
    has_error = np.zeros(len(truths), np.bool_)
    has_error[assigned[fixable]] = True
    missed = counted_truths & ~found & ~has_error
    fixable &= ~found[assigned] & counted_truths[assigned]
    fixable = _best_of_each(np.where(fixable, assigned, -1), ranked.scores, len(truths))

    oracle = _Oracle(ranked.labels, ranked.scores, truths.labels, counted_truths, PROTOCOLS[protocol].summary)
    mean = oracle.mean_ap(right, counted)
    fixed: dict[str, float] = {}  # cause -> mAP after the oracle fixed it
    for cause in CAUSES[:-1]:
        kind = outcomes == Outcome[cause]
        corrected = kind & fixable
        labels = np.where(corrected, truths.labels[assigned], ranked.labels)
        fixed[cause] = oracle.mean_ap(right | corrected, counted & (~kind | corrected), labels)
    fixed["missed"] = oracle.mean_ap(right, counted, removed=missed)
    fixed["false positives"] = oracle.mean_ap(right, right)
    fixed["false negatives"] = oracle.mean_ap(right, counted, removed=counted_truths & ~found)

    count = {cause: int((outcomes == Outcome[cause]).sum()) for cause in CAUSES[:-1]} | {"missed": int(missed.sum())}
    count |= {"false positives": int((counted & ~right).sum()), "false negatives": int((counted_truths & ~found).sum())}
    given_outcomes = np.full(len(given), Outcome.ignored, np.int64)
    objects = np.full(len(given), -1, np.int64)
    given_outcomes[order], objects[order] = outcomes, assigned
    delta_ap = {cause: value - mean for cause, value in fixed.items()}
    return ErrorSplit(protocol, mean, delta_ap, count, given_outcomes, objects, missed)


@dataclass(frozen=True, slots=True, eq=False)
class _Oracle:
    """mAP of ranked detections after some are fixed, over the classes that have objects."""

    labels: IntArray  # [D]
    scores: FloatArray  # [D]
    truth_labels: IntArray  # [G]
    counted_truths: BoolArray  # [G]
    summary: Summary

    def mean_ap(
        self,
        right: BoolArray,
        counted: BoolArray,
        labels: IntArray | None = None,
        removed: BoolArray | None = None,
    ) -> float:
        labels = self.labels if labels is None else labels
        remaining = self.counted_truths if removed is None else self.counted_truths & ~removed
        values = []
        for label in np.unique(self.truth_labels[self.counted_truths]):
            rows = np.flatnonzero(counted & (labels == label))
            rows = rows[np.argsort(-self.scores[rows], kind="stable")]
            num_truths = int((remaining & (self.truth_labels == label)).sum())
            curve = Curve(self.scores[rows], np.cumsum(right[rows], dtype=np.int64), num_truths)
            values.append(average_precision(curve, self.summary) if num_truths else 0.0)
        return float(np.mean(values))


def _best_of_each(truth_rows: IntArray, scores: FloatArray, num_truths: int) -> BoolArray:
    """Return a mask [D] of the detection with the best score for each object, over all classes.

    `truth_rows` [D] is the object of each detection, -1 for none.
    """
    order = np.argsort(-scores, kind="stable")
    mask = np.zeros(len(truth_rows), np.bool_)
    mask[order] = first_claims(truth_rows[order], num_truths)
    return mask
