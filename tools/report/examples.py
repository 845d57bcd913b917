"""Example pictures: the images with most and with no mistakes, and the mistakes with the highest scores.

The choice uses only the tables. A missing picture is skipped when the examples are drawn, not when they are chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from detector.metrics.errors import ErrorSplit, Outcome
from detector.metrics.tables import DetectionTable, IntArray, TruthTable


@dataclass(frozen=True, slots=True)
class WorstImage:
    """An image with its number of mistakes."""

    image: int  # row in image_ids
    missed: int  # objects without any detection, not even a wrong one
    false_positives: int  # detections that score at least the threshold

    @property
    def mistakes(self) -> int:
        """Number of objects missed and of false positives."""
        return self.missed + self.false_positives


def worst_images(
    detections: DetectionTable, truths: TruthTable, split: ErrorSplit, score_threshold: float
) -> list[WorstImage]:
    """Return every image with a mistake, most mistakes first; equal ones in the dataset's order."""
    num_images = len(truths.image_ids)
    wrong = (split.outcomes > Outcome.ignored) & (detections.scores >= score_threshold)
    false_positives = np.bincount(detections.image_index[wrong], minlength=num_images)
    missed = np.bincount(truths.image_index[split.missed], minlength=num_images)
    total = missed + false_positives
    order = np.argsort(-total, kind="stable")
    return [WorstImage(int(row), int(missed[row]), int(false_positives[row])) for row in order if total[row]]


def best_images(truths: TruthTable, worst: list[WorstImage]) -> list[int]:
    """Return the rows of the images without a mistake, those with most objects first."""
    objects = np.bincount(truths.image_index[~truths.difficult], minlength=len(truths.image_ids))
    wrong = {item.image for item in worst}
    return [int(row) for row in np.argsort(-objects, kind="stable") if int(row) not in wrong]


def confident_mistakes(detections: DetectionTable, split: ErrorSplit, score_threshold: float) -> IntArray:
    """Return the rows of the false positives that score at least the threshold, highest score first."""
    rows = np.flatnonzero((split.outcomes > Outcome.ignored) & (detections.scores >= score_threshold))
    return rows[np.argsort(-detections.scores[rows], kind="stable")]


def first_with_picture(
    images: Iterable[int], read: Callable[[int], Tensor], count: int
) -> Iterator[tuple[int, Tensor]]:
    """Yield the first `count` positions in `images` with a readable picture, and the picture [3, H, W] uint8."""
    unreadable: set[int] = set()
    drawn = 0
    for position, image in enumerate(images):
        if drawn >= count:
            return
        if image in unreadable:
            continue
        try:
            picture = read(image)
        except ValueError:
            unreadable.add(image)
            continue
        drawn += 1
        yield position, picture
