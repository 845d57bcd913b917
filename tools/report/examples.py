"""Pictures to learn from: the images with most mistakes, and the mistakes made with most confidence.

Both are chosen from tables alone. Pictures that are not there are passed over in the drawing, not in the choosing.
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
    """An image with what was got wrong there."""

    image: int  # row in image_ids
    missed: int  # objects that no detection is on, not even by mistake
    false_positives: int  # detections from the score threshold on

    @property
    def mistakes(self) -> int:
        return self.missed + self.false_positives


def worst_images(
    detections: DetectionTable, truths: TruthTable, split: ErrorSplit, score_threshold: float
) -> list[WorstImage]:
    """Every image with a mistake, most mistakes first, of equal ones in the dataset's order."""
    num_images = len(truths.image_ids)
    wrong = (split.outcomes > Outcome.ignored) & (detections.scores >= score_threshold)
    false_positives = np.bincount(detections.image_index[wrong], minlength=num_images)
    missed = np.bincount(truths.image_index[split.missed], minlength=num_images)
    total = missed + false_positives
    order = np.argsort(-total, kind="stable")
    return [WorstImage(int(row), int(missed[row]), int(false_positives[row])) for row in order if total[row]]


def best_images(truths: TruthTable, worst: list[WorstImage]) -> list[int]:
    """Rows of the images without a mistake, those with most objects first."""
    objects = np.bincount(truths.image_index[~truths.difficult], minlength=len(truths.image_ids))
    wrong = {item.image for item in worst}
    return [int(row) for row in np.argsort(-objects, kind="stable") if int(row) not in wrong]


def confident_mistakes(detections: DetectionTable, split: ErrorSplit, score_threshold: float) -> IntArray:
    """Rows of the false positives from the score threshold on, best score first."""
    rows = np.flatnonzero((split.outcomes > Outcome.ignored) & (detections.scores >= score_threshold))
    return rows[np.argsort(-detections.scores[rows], kind="stable")]


def first_with_picture(
    images: Iterable[int], read: Callable[[int], Tensor], count: int
) -> Iterator[tuple[int, Tensor]]:
    """The first `count` positions in `images` whose picture can be read, each with its picture [3, H, W] uint8."""
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
