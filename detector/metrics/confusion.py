"""Confusion matrix of classes at one score threshold.

Detections are paired with objects one to one: first with objects of their own class, then, among the rest, with
objects of any other class. A detection without a pair is on background. An object without a pair is missed.
"""

from __future__ import annotations

import numpy as np

from detector.metrics.matching import first_claims, matches, matches_of_other_classes, ranking
from detector.metrics.tables import DetectionTable, IntArray, TruthTable


def confusion_matrix(
    detections: DetectionTable, truths: TruthTable, score_threshold: float = 0.5, iou_threshold: float = 0.5
) -> IntArray:
    """Return counts [K + 1, K + 1]: the row is the class of the object, the column of the detection; 0 is background.

    Row 0 counts detections on background or on an object already found, column 0 counts missed objects. Difficult
    objects, and the detections on them, do not count.
    Raises ValueError if the tables differ in images or classes.
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

    labels = np.append(truths.labels, 0)  # `claimed` is -1 on background, which reads this last element
    unfound = truths.labels[~taken & ~truths.difficult]
    size = len(truths.classes) + 1
    cells = np.concatenate((labels[claimed[~ignored]] * size + detections.labels[~ignored], unfound * size))
    return np.bincount(cells, minlength=size * size).reshape(size, size)
