"""Why AP is lost: each false positive and each missed object has one cause, and each cause its price in mAP.

With t the IoU that makes a detection right (0.5) and b = 0.1, a false positive is, in this order of precedence,
  localisation    on an object of its class, b <= IoU <= t
  classification  on an object of another class, IoU >= t
  duplicate       on an object of its class that a better scored detection found, IoU > t
  background      on nothing, IoU <= b with every object
  both            the rest: on an object of another class, b < IoU < t
and an object is missed where no detection found it and no localisation or classification error means it. The price
of a cause is the mAP gained by an oracle that mends it alone: the box or the class put right, all others taken out,
missed objects taken off the count. An object is found once: of the detections with a wrong box or class that mean it
only the best scored one is put right, and the others are taken out. A detection on a difficult object is ignored, and
none is blamed on one. Source: Bolya et al., TIDE, ECCV 2020, with VOC's matching in place of COCO's.
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
    """What became of a detection."""

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
    """The causes of a detector's errors, in all and one by one."""

    protocol: str
    mean: float  # mAP by the protocol
    price: dict[str, float]  # cause -> mAP that mending it alone gives back; also `false positives`, `false negatives`
    count: dict[str, int]  # cause -> detections, or objects for `missed`
    outcomes: IntArray  # [D] Outcome of every detection, in the rows of the table that was given
    objects: IntArray  # [D] row of the object that the detection is on, -1 for none
    missed: BoolArray  # [G]

    def to_json(self) -> dict[str, Any]:
        """{"errors": {"protocol": name, "mAP": x, "dAP": {cause: x}, "count": {cause: n}}}."""
        split = {"protocol": self.protocol, "mAP": self.mean, "dAP": dict(self.price), "count": dict(self.count)}
        return {"errors": split}

    def table(self) -> str:
        """An aligned plain-text table: a row for each cause."""
        lines = [f"{f'{self.protocol} mAP {self.mean:.4f}':<28}{'dAP':>8}{'count':>9}"]
        for cause, price in self.price.items():
            lines.append(f"{cause:<28}{price:8.4f}{self.count[cause]:9d}")
        return "\n".join(lines)


def split_errors(
    detections: DetectionTable, truths: TruthTable, protocol: str = "voc_area", iou_threshold: float = 0.5
) -> ErrorSplit:
    """The outcome of every detection, the missed objects, and what each cause costs.

    A class all of whose objects are missed keeps an AP of 0 when they are taken off the count.
    Raises ValueError where the tables differ in images or classes, or no object counts.
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
    plain = np.flatnonzero(~truths.difficult)  # an error is never blamed on a difficult object
    own_iou, own = matches(ranked, truths.select(plain))
    other_iou, other = matches_of_other_classes(ranked, truths.select(plain))
    localisation = ~hit & (own_iou >= BACKGROUND_IOU)
    outcomes = np.select(
        [right, ~counted, localisation, other_iou >= iou_threshold, hit, other_iou > BACKGROUND_IOU],
        [Outcome.right, Outcome.ignored, Outcome.localisation, Outcome.classification, Outcome.duplicate, Outcome.both],
        Outcome.background,
    )
    meant = np.where(hit, hit_row, -1)
    for kind, rows in ((localisation, own), (np.isin(outcomes, (Outcome.classification, Outcome.both)), other)):
        meant[kind] = plain[rows[kind]]

    found = np.zeros(len(truths), np.bool_)
    found[meant[right]] = True
    mendable = np.isin(outcomes, (Outcome.localisation, Outcome.classification))
    meant_by_error = np.zeros(len(truths), np.bool_)
    meant_by_error[meant[mendable]] = True
    missed = counted_truths & ~found & ~meant_by_error
    mendable &= ~found[meant] & counted_truths[meant]
    mendable = _best_of_each(np.where(mendable, meant, -1), ranked.scores, len(truths))

    oracle = _Oracle(ranked.labels, ranked.scores, truths.labels, counted_truths, PROTOCOLS[protocol].summary)
    mean = oracle.mean_ap(right, counted)
    mended: dict[str, float] = {}
    for cause in CAUSES[:-1]:
        kind = outcomes == Outcome[cause]
        put_right = kind & mendable
        labels = np.where(put_right, truths.labels[meant], ranked.labels)
        mended[cause] = oracle.mean_ap(right | put_right, counted & (~kind | put_right), labels)
    mended["missed"] = oracle.mean_ap(right, counted, taken_off=missed)
    mended["false positives"] = oracle.mean_ap(right, right)
    mended["false negatives"] = oracle.mean_ap(right, counted, taken_off=counted_truths & ~found)

    count = {cause: int((outcomes == Outcome[cause]).sum()) for cause in CAUSES[:-1]} | {"missed": int(missed.sum())}
    count |= {"false positives": int((counted & ~right).sum()), "false negatives": int((counted_truths & ~found).sum())}
    fates = np.full(len(given), Outcome.ignored, np.int64)
    objects = np.full(len(given), -1, np.int64)
    fates[order], objects[order] = outcomes, meant
    price = {cause: value - mean for cause, value in mended.items()}
    return ErrorSplit(protocol, mean, price, count, fates, objects, missed)


@dataclass(frozen=True, slots=True, eq=False)
class _Oracle:
    """mAP of ranked detections some of which are mended, over the classes that have objects."""

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
        taken_off: BoolArray | None = None,
    ) -> float:
        labels = self.labels if labels is None else labels
        remaining = self.counted_truths if taken_off is None else self.counted_truths & ~taken_off
        values = []
        for label in np.unique(self.truth_labels[self.counted_truths]):
            rows = np.flatnonzero(counted & (labels == label))
            rows = rows[np.argsort(-self.scores[rows], kind="stable")]
            num_truths = int((remaining & (self.truth_labels == label)).sum())
            curve = Curve(self.scores[rows], np.cumsum(right[rows], dtype=np.int64), num_truths)
            values.append(average_precision(curve, self.summary) if num_truths else 0.0)
        return float(np.mean(values))


def _best_of_each(truth_rows: IntArray, scores: FloatArray, num_truths: int) -> BoolArray:
    """Mask [D]: the best scored of the detections that name an object (-1: none), whatever their classes."""
    order = np.argsort(-scores, kind="stable")
    mask = np.zeros(len(truth_rows), np.bool_)
    mask[order] = first_claims(truth_rows[order], num_truths)
    return mask
