"""Paired bootstrap: is one detector better than another on these images, or is the difference chance?

The paired bootstrap draws the images of the test set many times, with replacement, and scores both detectors on each
draw. Matching is done once: whether a detection is right depends only on its own image. So a draw only weights the
rows of each image by how often it was drawn. Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from detector.metrics import voc
from detector.metrics.matching import matches, ranking
from detector.metrics.tables import DetectionTable, FloatArray, IntArray, TruthTable
from detector.metrics.voc import PROTOCOLS, Summary, right_and_counted

DRAWS_AT_ONCE = 250  # limits memory: weights [images, draws] and points of curves [true positives, draws]


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Difference in mAP of two detectors: B minus A."""

    protocol: str
    mean_a: float
    mean_b: float
    average_precision: dict[str, tuple[float, float]]  # class -> AP of A and of B
    differences: FloatArray  # [num_resamples] mAP of B minus mAP of A

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the percentile interval of the difference in mAP."""
        tail = (1.0 - confidence) / 2.0
        low, high = np.quantile(self.differences, (tail, 1.0 - tail))
        return float(low), float(high)

    @property
    def doubt(self) -> float:
        """Share of the draws in which the better detector is not better."""
        sign = np.sign(self.mean_b - self.mean_a)
        return float(np.mean(self.differences * sign <= 0))

    def to_json(self) -> dict[str, Any]:
        """{"compare": {"protocol", "mAP": [a, b], "difference", "interval95": [low, high], "doubt", "AP": {...}}}."""
        return {
            "compare": {
                "protocol": self.protocol,
                "mAP": [self.mean_a, self.mean_b],
                "difference": self.mean_b - self.mean_a,
                "interval95": list(self.interval()),
                "doubt": self.doubt,
                "resamples": len(self.differences),
                "AP": {name: list(pair) for name, pair in self.average_precision.items()},
            }
        }

    def table(self) -> str:
        """Return an aligned plain-text table: a row for each class, then the mean with its interval."""
        width = max(len(name) for name in (*self.average_precision, self.protocol))
        rows = {**self.average_precision, "mean": (self.mean_a, self.mean_b)}
        lines = [f"{self.protocol:<{width}}{'A':>9}{'B':>9}{'B - A':>9}"]
        lines += [f"{name:<{width}}{a:9.4f}{b:9.4f}{b - a:+9.4f}" for name, (a, b) in rows.items()]
        low, high = self.interval()
        lines.append(f"95% of {len(self.differences)} resamples of the images: {low:+.4f} to {high:+.4f}")
        return "\n".join(lines)


def compare(
    a: DetectionTable,
    b: DetectionTable,
    truths: TruthTable,
    protocol: str = "voc_area",
    iou_threshold: float = 0.5,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two detectors on the same images: AP by class, and the paired bootstrap of the difference in mAP.

    Only classes that both searched for are compared. The mean of a draw leaves out classes without objects in the draw.
    Raises ValueError if the tables differ in images or classes, or share no class to compare.
    """
    results = [voc.evaluate(table, truths, [protocol], iou_threshold).results[protocol] for table in (a, b)]
    first, second = (result.average_precision for result in results)
    shared = [name for name in first if name in second]
    if not shared:
        raise ValueError("expected a class with objects that both detectors searched for, got none; check the classes")
    curves = [_weighted_curves(table, truths, shared, protocol, iou_threshold) for table in (a, b)]
    rng = np.random.default_rng(seed)
    differences = []
    with _one_thread():
        for start in range(0, num_resamples, DRAWS_AT_ONCE):
            weights = _draw(rng, len(truths.image_ids), min(DRAWS_AT_ONCE, num_resamples - start))
            first_means, second_means = (_mean([curve.average_precision(weights) for curve in side]) for side in curves)
            differences.append(second_means - first_means)
    pairs = {name: (first[name], second[name]) for name in shared}
    mean_first, mean_second = (float(np.mean(column)) for column in zip(*pairs.values(), strict=True))
    return Comparison(protocol, mean_first, mean_second, pairs, np.concatenate(differences))


@dataclass(frozen=True, slots=True, eq=False)
class _WeightedCurve:
    """Precision-recall curve of one class that keeps the image of each point, so that images can have weights."""

    right_images: IntArray  # [T] image of each true positive, best score first
    wrong_images: Tensor  # [F] image of each false positive above the last true positive, best score first
    wrong_starts: Tensor  # [T] index in `wrong_images` of the first false positive after the previous true positive
    truth_images: IntArray  # [G] image of each object that counts
    summary: Summary

    def average_precision(self, weights: FloatArray) -> FloatArray:
        """Return the AP [B] under weights [N, B] of the images; NaN if no object has a weight above 0."""
        num_truths = weights[self.truth_images].sum(axis=0)
        if not len(self.right_images):
            return np.where(num_truths > 0, 0.0, np.nan)
        steps = weights[self.right_images]  # [T, B]
        right = steps.cumsum(axis=0)
        bags = functional.embedding_bag(self.wrong_images, torch.from_numpy(weights), self.wrong_starts, mode="sum")
        precision = right / np.maximum(right + bags.numpy().cumsum(axis=0), 1.0)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        if self.summary is Summary.area:
            total = (steps * envelope).sum(axis=0)
        else:  # weights are whole numbers, so recall compares with k/10 exactly: one formula for all 11-point protocols
            padded = np.concatenate((envelope, np.zeros_like(envelope[:1])))
            places = np.stack([(10.0 * right < k * num_truths).sum(axis=0) for k in range(11)])
            total = np.take_along_axis(padded, places, axis=0).mean(axis=0) * num_truths
        average: FloatArray = np.divide(total, num_truths, out=np.full(total.shape, np.nan), where=num_truths > 0)
        return average


def _weighted_curves(
    detections: DetectionTable, truths: TruthTable, names: Sequence[str], protocol: str, iou_threshold: float
) -> list[_WeightedCurve]:
    """Return the curve of each named class."""
    ranked = detections.aligned(truths)
    ranked = ranked.select(ranking(ranked))
    overlap, truth = matches(ranked, truths)
    hit = overlap >= iou_threshold if PROTOCOLS[protocol].inclusive else overlap > iou_threshold
    right, counted = right_and_counted(np.where(hit, truth, -1), truths.difficult)
    curves = []
    for name in names:
        label = truths.classes.index(name) + 1
        rows = np.flatnonzero(counted & (ranked.labels == label))
        places = np.flatnonzero(right[rows])  # of the true positives among the class's detections
        wrong = rows[: places[-1]][~right[rows[: places[-1]]]] if len(places) else rows[:0]
        before = places - np.arange(len(places))  # false positives before each true positive
        objects = ~truths.difficult & (truths.labels == label)
        curves.append(
            _WeightedCurve(
                right_images=ranked.image_index[rows[places]],
                wrong_images=torch.from_numpy(ranked.image_index[wrong]),
                wrong_starts=torch.from_numpy(np.concatenate(([0], before[:-1]))[: len(places)]),
                truth_images=truths.image_index[objects],
                summary=PROTOCOLS[protocol].summary,
            )
        )
    return curves


def _mean(by_class: list[FloatArray]) -> Any:
    """Return the mean [B] of the classes' APs [B] that are not NaN; 0 for a draw without any object."""
    values = np.stack(by_class)
    scored = ~np.isnan(values)
    return np.where(scored, values, 0.0).sum(axis=0) / np.maximum(scored.sum(axis=0), 1)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread. The sums are short: a second thread costs more than it saves (100 times if busy)."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def _draw(rng: np.random.Generator, num_images: int, num_draws: int) -> Any:
    """Return how often [N, B] float32 each image occurs in each draw of N images with replacement."""
    images = rng.integers(0, num_images, (num_draws, num_images))
    images += np.arange(num_draws)[:, None] * num_images
    counts = np.bincount(images.ravel(), minlength=num_draws * num_images).reshape(num_draws, num_images)
    return np.ascontiguousarray(counts.T, dtype=np.float32)
