"""Which class is taken for which, at one score threshold.

Detections are paired with objects one to one: first with objects of their own class, then, among those left, with
objects of any other class. What remains is on background, or missed.
"""

from __future__ import annotations

import numpy as np

from detector.metrics.matching import first_claims, matches, matches_of_other_classes, ranking
from detector.metrics.tables import DetectionTable, IntArray, TruthTable


def confusion_matrix(
    detections: DetectionTable, truths: TruthTable, score_threshold: float = 0.5, iou_threshold: float = 0.5
) -> IntArray:
    """Counts [K + 1, K + 1]: the row is the object's class, the column the detection's; 0 is background.

    Row 0 holds detections on nothing or on an object already found, column 0 objects that nothing found. Difficult
    objects, and the detections on them, do not count.
    Raises ValueError where the tables differ in images or classes.
    """
    detections = detections.aligned(truths)
    detections = detections.select(detections.scores >= score_threshold)
    detections = detections.select(ranking(detections))
    own_iou, own = matches(detections, truths)
    other_iou, other = matches_of_other_classes(detections, truths)
    order = np.argsort(-detections.scores, kind="stable")

    claimed = np.full(len(detections), -1, np.int64)
    taken = np.zeros(len(truths), np.bool_)
    ignored = np.zeros(len(detections), np.bool_)
    for overlap, truth in ((own_iou, own), (other_iou, other)):
        hit = (overlap > iou_threshold) & (claimed < 0) & ~ignored
        ignored[hit] = truths.difficult[truth[hit]]
        wanted = np.where(hit & ~ignored, truth, -1)
        wanted[np.isin(wanted, np.flatnonzero(taken))] = -1
        first = np.zeros(len(detections), np.bool_)
        first[order] = first_claims(wanted[order], len(truths))
        claimed[first] = truth[first]
        taken[truth[first]] = True

    labels = np.append(truths.labels, 0)  # the last serves `claimed` -1: background
    unfound = truths.labels[~taken & ~truths.difficult]
    size = len(truths.classes) + 1
    cells = np.concatenate((labels[claimed[~ignored]] * size + detections.labels[~ignored], unfound * size))
    return np.bincount(cells, minlength=size * size).reshape(size, size)
