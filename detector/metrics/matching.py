"""Matching: for each detection the object that it overlaps most, for a whole dataset without a loop over rows.

Overlaps are computed as in the VOC devkit, on 1-based inclusive pixels with "+ 1" in every width. So even an overlap of
exactly one half compares as in the original script.
"""

from __future__ import annotations

import numpy as np

from detector.metrics.tables import BoolArray, DetectionTable, FloatArray, IntArray, TruthTable


def voc_overlap(boxes: FloatArray, others: FloatArray) -> FloatArray:
    """Return the IoU [M] of boxes [M, 4] with others [M, 4], row by row, both 0-based and half-open.

    Source: py-faster-rcnn, lib/datasets/voc_eval.py (the order of the operations is kept).
    """
    ax1, ay1, ax2, ay2 = boxes[:, 0] + 1.0, boxes[:, 1] + 1.0, boxes[:, 2], boxes[:, 3]
    bx1, by1, bx2, by2 = others[:, 0] + 1.0, others[:, 1] + 1.0, others[:, 2], others[:, 3]
    width = np.maximum(np.minimum(bx2, ax2) - np.maximum(bx1, ax1) + 1.0, 0.0)
    height = np.maximum(np.minimum(by2, ay2) - np.maximum(by1, ay1) + 1.0, 0.0)
    intersection = width * height
    union = (ax2 - ax1 + 1.0) * (ay2 - ay1 + 1.0) + (bx2 - bx1 + 1.0) * (by2 - by1 + 1.0) - intersection
    overlap: FloatArray = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    return overlap


def best_truths(
    boxes: FloatArray,
    groups: IntArray,
    truth_boxes: FloatArray,
    truth_groups: IntArray,
    other_label: tuple[IntArray, IntArray] | None = None,
) -> tuple[FloatArray, IntArray]:
    """Return for each box [D, 4] the largest overlap [D] with an object of the same group, and the object's row [D].

    Groups [D] and [G] are non-negative integers, for example one number for image and class. `other_label`, labels [D]
    and [G], skips objects with the label of the box. The first object wins a tie. A box without a candidate gets
    overlap -1 and row -1. The loop runs over the objects of the largest group, for all boxes at once, so memory is
    linear in D.
    """
    order = np.argsort(truth_groups, kind="stable")
    counts_by_group = np.bincount(truth_groups, minlength=int(groups.max(initial=-1)) + 1)
    starts_by_group = np.cumsum(counts_by_group) - counts_by_group
    starts, counts = starts_by_group[groups], counts_by_group[groups]
    overlap, row = np.full(len(boxes), -1.0), np.full(len(boxes), -1, np.int64)
    active = np.flatnonzero(counts)
    for nth in range(int(counts.max(initial=0))):
        active = active[counts[active] > nth]
        candidate = order[starts[active] + nth]
        value = voc_overlap(boxes[active], truth_boxes[candidate])
        better = value > overlap[active]
        if other_label is not None:
            better &= other_label[0][active] != other_label[1][candidate]
        overlap[active[better]], row[active[better]] = value[better], candidate[better]
    return overlap, row


def image_and_class(image_index: IntArray, labels: IntArray, num_classes: int) -> IntArray:
    """Return one group number [M] for each pair of image and class."""
    return image_index * (num_classes + 1) + labels


def ranking(detections: DetectionTable) -> IntArray:
    """Return the rows [D] sorted by class, within a class by falling score.

    Equal scores are common in result files (3 decimals), and the original script does not define their order. Here
    the name of the image decides, then the box, so that the result does not depend on the order of images or rows.
    """
    names = np.empty(len(detections.image_ids), np.int64)
    names[np.argsort(np.array(detections.image_ids), kind="stable")] = np.arange(len(names))
    x1, y1, x2, y2 = detections.boxes.T
    image = names[detections.image_index]
    return np.lexsort((y2, x2, y1, x1, image, -detections.scores, detections.labels))


def first_claims(truth_rows: IntArray, num_truths: int) -> BoolArray:
    """Return a mask [M] of the first row for each object. truth_rows [M] are in order of rank; -1 means no object."""
    claims = np.flatnonzero(truth_rows >= 0)
    first = np.full(num_truths, -1, np.int64)
    first[truth_rows[claims[::-1]]] = claims[::-1]  # the last assignment stays: the one of the best rank
    mask = np.zeros(len(truth_rows), np.bool_)
    mask[first[first >= 0]] = True
    return mask


def matches(detections: DetectionTable, truths: TruthTable) -> tuple[FloatArray, IntArray]:
    """Return overlap [D] and row [D] of the object of the same image and class that each detection overlaps most."""
    num_classes = len(truths.classes)
    return best_truths(
        detections.boxes,
        image_and_class(detections.image_index, detections.labels, num_classes),
        truths.boxes,
        image_and_class(truths.image_index, truths.labels, num_classes),
    )


def matches_of_other_classes(detections: DetectionTable, truths: TruthTable) -> tuple[FloatArray, IntArray]:
    """Return overlap [D] and row [D] of the object that each detection overlaps most: same image, another class."""
    labels = (detections.labels, truths.labels)
    return best_truths(detections.boxes, detections.image_index, truths.boxes, truths.image_index, labels)
