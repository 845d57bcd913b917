"""Calibration: how often the detections with a given score are right, and the expected calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detector.metrics.matching import matches, ranking
from detector.metrics.tables import DetectionTable, FloatArray, IntArray, TruthTable
from detector.metrics.voc import right_and_counted


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Detections by score, in bins of equal width in [0, 1]."""

    edges: FloatArray  # [B + 1]
    count: IntArray  # [B] detections in the bin, without those on difficult objects
    score: FloatArray  # [B] mean score of these detections, NaN in an empty bin
    precision: FloatArray  # [B] share of these detections that is right, NaN in an empty bin

    @property
    def error(self) -> float | None:
        """Expected calibration error: mean |precision - score| over detections. Source: Guo et al., 2017."""
        filled = self.count > 0
        if not filled.any():
            return None
        return float(np.average(np.abs(self.precision - self.score)[filled], weights=self.count[filled]))


def calibrate(
    detections: DetectionTable, truths: TruthTable, num_bins: int = 10, iou_threshold: float = 0.5
) -> Calibration:
    """Return the calibration of scores in [0, 1]. A detection is right if it is a true positive of VOC's metric.

    Raises ValueError for a score outside [0, 1], and if the tables differ in images or classes.
    """
    ranked = detections.aligned(truths)
    for row in np.flatnonzero((ranked.scores < 0) | (ranked.scores > 1))[:1]:
        raise ValueError(
            f"expected scores in [0, 1], detection {row} has {ranked.scores[row]:g}; convert them to probabilities"
        )
    ranked = ranked.select(ranking(ranked))
    overlap, truth = matches(ranked, truths)
    right, counted = right_and_counted(np.where(overlap > iou_threshold, truth, -1), truths.difficult)
    right, scores = right[counted], ranked.scores[counted]
    bins = np.minimum((scores * num_bins).astype(np.int64), num_bins - 1)
    count = np.bincount(bins, minlength=num_bins)
    empty = np.full(num_bins, np.nan)
    return Calibration(
        edges=np.linspace(0.0, 1.0, num_bins + 1),
        count=count,
        score=np.divide(np.bincount(bins, scores, num_bins), count, out=empty.copy(), where=count > 0),
        precision=np.divide(np.bincount(bins, right, num_bins), count, out=empty.copy(), where=count > 0),
    )
