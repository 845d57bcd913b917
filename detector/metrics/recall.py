"""Recall of proposals: the share of objects that they cover, by IoU, by class and by number of proposals.

Objects and proposals are paired one to one, the pair with the highest IoU first, as in the original. So one proposal
never finds two objects. Difficult objects do not count. Average recall (AR) is the mean recall over IoU .5:.05:.95.
Source: py-faster-rcnn lib/datasets/imdb.py evaluate_recall; Hosang et al., What makes for effective detection
proposals, 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detector.metrics.tables import FloatArray, IntArray, TruthTable
from detector.ops.boxes import iou

COUNTS = (100, 300, 1000, 2000)
THRESHOLDS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True, slots=True, eq=False)
class RecallResult:
    """The IoU at which each object was found. Every recall is computed from it."""

    classes: tuple[str, ...]
    counts: tuple[int, ...]  # numbers of proposals per image, best first
    labels: IntArray  # [G] of the objects that count
    overlaps: FloatArray  # [counts, G] IoU of the object with the proposal paired with it, 0 without one

    def recall(self, threshold: float, count: int, name: str | None = None) -> float | None:
        """Return the share of the objects (of one class) found at IoU >= threshold; None if there is no object."""
        found = self.overlaps[self.counts.index(count)]
        if name is not None:
            found = found[self.labels == self.classes.index(name) + 1]
        return float(np.mean(found >= threshold)) if len(found) else None

    def average_recall(self, count: int, name: str | None = None) -> float | None:
        """Return AR, the mean of `recall` over IoU .5:.05:.95."""
        recalls = [self.recall(threshold, count, name) for threshold in THRESHOLDS]
        return None if recalls[0] is None else float(np.mean([recall for recall in recalls if recall is not None]))

    def to_json(self) -> dict[str, Any]:
        """{"proposal_recall": {"100": {"AR": x, "recall@0.5": x, "recall@0.7": x, "class": {...}}, ...}}."""

        def numbers(count: int, name: str | None = None) -> dict[str, float | None]:
            return {
                "AR": self.average_recall(count, name),
                "recall@0.5": self.recall(0.5, count, name),
                "recall@0.7": self.recall(0.7, count, name),
            }

        return {
            "proposal_recall": {
                str(count): {**numbers(count), "class": {name: numbers(count, name) for name in self.classes}}
                for count in self.counts
            }
        }

    def table(self) -> str:
        """Return an aligned plain-text table: a row for each class and for all; recall at 0.5, 0.7 and AR by count."""
        width = max(len(name) for name in (*self.classes, "proposals"))
        cells = [f"{title}@{count}" for count in self.counts for title in ("R.5", "R.7", "AR")]
        lines = [f"{'proposals':<{width}}" + "".join(f"{cell:>9}" for cell in cells)]
        for name in (*self.classes, None):
            values = [
                value
                for count in self.counts
                for value in (
                    self.recall(0.5, count, name),
                    self.recall(0.7, count, name),
                    self.average_recall(count, name),
                )
            ]
            row = "".join(f"{'none':>9}" if value is None else f"{value:9.4f}" for value in values)
            lines.append(f"{name or 'all':<{width}}{row}")
        return "\n".join(lines)


def evaluate(proposals: Sequence[Tensor], truths: TruthTable, counts: Sequence[int] = COUNTS) -> RecallResult:
    """Return the recall of one list of proposal boxes per image of `truths`.

    Boxes are [P_i, 4] xyxy, best first, 0-based and half-open. Raises ValueError unless there is one list per image.
    """
    if len(proposals) != len(truths.image_ids):
        raise ValueError(f"expected proposals of {len(truths.image_ids)} images, got {len(proposals)}")
    rows = np.flatnonzero(~truths.difficult)
    rows = rows[np.argsort(truths.image_index[rows], kind="stable")]
    boxes = torch.from_numpy(truths.boxes[rows])
    ends = np.searchsorted(truths.image_index[rows], np.arange(len(proposals) + 1))
    overlaps = np.zeros((len(counts), len(rows)))
    for image, candidates in enumerate(proposals):
        start, end = ends[image], ends[image + 1]
        if start == end:
            continue
        pairs = iou(candidates[: max(counts)].to(torch.float64), boxes[start:end]).numpy()
        for place, count in enumerate(counts):
            overlaps[place, start:end] = _one_to_one(pairs[:count])
    return RecallResult(truths.classes, tuple(counts), truths.labels[rows], overlaps)


def _one_to_one(pairs: FloatArray) -> FloatArray:
    """Pair objects and proposals by their IoUs [P, G], the highest first. Return the IoU [G] of each object's pair."""
    found, pairs = np.zeros(pairs.shape[1]), pairs.copy()
    for _ in range(min(pairs.shape)):
        proposal, truth = divmod(int(pairs.argmax()), pairs.shape[1])
        found[truth] = pairs[proposal, truth]
        pairs[proposal] = -1.0
        pairs[:, truth] = -1.0
    return found
