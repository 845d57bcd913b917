"""Detections and ground truth of a whole dataset as flat numpy columns, the input of every metric.

A row is one box. `image_index` is its image, `labels` its class (1 is classes[0]). Tables are checked when they are
made, so that no metric gets a NaN score or an unknown image. Each fault is one ValueError.
Boxes are float64 xyxy in pixels of the original image, 0-based and half-open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from detector.structures import Detections

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class AnnotationLike(Protocol):
    """The attributes that a truth table needs of an image's annotation. `areas` [G] is optional."""

    @property
    def image_id(self) -> str:
        """Id of the image."""
        ...

    @property
    def width(self) -> int:
        """Pixels."""
        ...

    @property
    def height(self) -> int:
        """Pixels."""
        ...

    @property
    def boxes(self) -> Tensor:
        """[G, 4] float32 xyxy."""
        ...

    @property
    def labels(self) -> Tensor:
        """[G] int64, 1..num_classes."""
        ...

    @property
    def difficult(self) -> Tensor:
        """[G] bool."""
        ...

    @property
    def truncated(self) -> Tensor:
        """[G] bool."""
        ...

    @property
    def occluded(self) -> Tensor:
        """[G] bool."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class DetectionTable:
    """Detections in a list of images, in any order.

    Raises ValueError for a repeated image or class, a row of an unknown image, a label without a class, a score that
    is NaN, a box that is not finite or inverted.
    """

    image_ids: tuple[str, ...]  # every image that the detector ran on, also those without detections
    classes: tuple[str, ...]  # the name of label i + 1
    image_index: IntArray  # [D], into image_ids
    boxes: FloatArray  # [D, 4] xyxy
    scores: FloatArray  # [D]
    labels: IntArray  # [D], 1..len(classes)
    unsearched: tuple[str, ...] = ()  # classes that were not searched for (no result file): left out of every mean

    def __post_init__(self) -> None:
        _check_names(self.image_ids, "image")
        _check_names(self.classes, "class")
        num_rows = len(self.image_index)
        if self.boxes.shape != (num_rows, 4) or self.scores.shape != (num_rows,) or self.labels.shape != (num_rows,):
            raise ValueError(
                f"expected {num_rows} detections in every column (boxes [D, 4], scores [D], labels [D]), got boxes "
                f"{self.boxes.shape}, scores {self.scores.shape}, labels {self.labels.shape}"
            )
        _check_rows("detection", self.image_ids, self.classes, self.image_index, self.boxes, self.labels)
        for row in np.flatnonzero(np.isnan(self.scores))[:1].tolist():
            raise ValueError(f"detection {row}, image {self.image_ids[self.image_index[row]]}: the score is NaN")
        if unknown := set(self.unsearched) - set(self.classes):
            raise ValueError(f"unsearched classes {sorted(unknown)} are not among the classes {list(self.classes)}")

    def __len__(self) -> int:
        return len(self.image_index)

    @classmethod
    def from_detections(
        cls, detections: Sequence[Detections], image_ids: Sequence[str], classes: Sequence[str]
    ) -> DetectionTable:
        """Return the table of one `Detections` per image, on any device. Raises ValueError for another number."""
        if len(detections) != len(image_ids):
            raise ValueError(f"expected detections of {len(image_ids)} images, got {len(detections)}")
        return cls(
            image_ids=tuple(image_ids),
            classes=tuple(classes),
            image_index=np.repeat(np.arange(len(detections)), [len(item) for item in detections]),
            boxes=_column([item.boxes for item in detections], np.float64, (4,)),
            scores=_column([item.scores for item in detections], np.float64),
            labels=_column([item.labels for item in detections], np.int64),
        )

    @classmethod
    def join(cls, tables: Sequence[DetectionTable]) -> DetectionTable:
        """Join tables with the same classes and different images, for example those of several processes.

        Raises ValueError if the classes differ or an image occurs twice.
        """
        for table in tables[1:]:
            if (table.classes, table.unsearched) != (tables[0].classes, tables[0].unsearched):
                raise ValueError(f"expected tables of the same classes, got {tables[0].classes} and {table.classes}")
        offsets = np.cumsum([0] + [len(table.image_ids) for table in tables[:-1]])
        indices = [table.image_index + offset for table, offset in zip(tables, offsets, strict=True)]
        return cls(
            image_ids=tuple(image_id for table in tables for image_id in table.image_ids),
            classes=tables[0].classes,
            image_index=np.concatenate(indices),
            boxes=np.concatenate([table.boxes for table in tables]),
            scores=np.concatenate([table.scores for table in tables]),
            labels=np.concatenate([table.labels for table in tables]),
            unsearched=tables[0].unsearched,
        )

    def select(self, keep: BoolArray | IntArray) -> DetectionTable:
        """Return the rows `keep` (a mask [D] or indices), with all images and classes."""
        return replace(
            self,
            image_index=self.image_index[keep],
            boxes=self.boxes[keep],
            scores=self.scores[keep],
            labels=self.labels[keep],
        )

    def aligned(self, truths: TruthTable) -> DetectionTable:
        """Return the same detections with the images and classes numbered as in `truths`.

        Raises ValueError if the images or classes differ: a missing image would silently count as one without
        detections.
        """
        if self.image_ids == truths.image_ids and self.classes == truths.classes:
            return self
        _check_same(self.image_ids, truths.image_ids, "image")
        _check_same(self.classes, truths.classes, "class")
        images = {image_id: index for index, image_id in enumerate(truths.image_ids)}
        labels = {name: index + 1 for index, name in enumerate(truths.classes)}
        return DetectionTable(
            image_ids=truths.image_ids,
            classes=truths.classes,
            image_index=np.array([images[image_id] for image_id in self.image_ids], np.int64)[self.image_index],
            boxes=self.boxes,
            scores=self.scores,
            labels=np.array([0] + [labels[name] for name in self.classes], np.int64)[self.labels],
            unsearched=self.unsearched,
        )


@dataclass(frozen=True, slots=True, eq=False)
class TruthTable:
    """Ground-truth objects of a list of images.

    The optional columns are for analysis and COCO's area ranges. VOC's metric needs none of them.
    Raises ValueError for a repeated image or class, a row of an unknown image, a label without a class, a bad box.
    """

    image_ids: tuple[str, ...]  # every image, also those without objects
    classes: tuple[str, ...]  # the name of label i + 1
    image_index: IntArray  # [G], into image_ids
    boxes: FloatArray  # [G, 4] xyxy
    labels: IntArray  # [G], 1..len(classes)
    difficult: BoolArray  # [G]: VOC's difficult, COCO's iscrowd
    sizes: IntArray | None = None  # [N, 2] width and height of every image
    truncated: BoolArray | None = None  # [G]
    occluded: BoolArray | None = None  # [G]
    areas: FloatArray | None = None  # [G] square pixels, if the annotations have areas that differ from the boxes'

    def __post_init__(self) -> None:
        _check_names(self.image_ids, "image")
        _check_names(self.classes, "class")
        num_rows = len(self.image_index)
        columns = [self.labels, self.difficult, self.truncated, self.occluded, self.areas]
        if self.boxes.shape != (num_rows, 4) or any(c is not None and c.shape != (num_rows,) for c in columns):
            raise ValueError(f"expected {num_rows} objects in every column, got boxes {self.boxes.shape}")
        if self.sizes is not None and self.sizes.shape != (len(self.image_ids), 2):
            raise ValueError(f"expected sizes of {len(self.image_ids)} images, got an array {self.sizes.shape}")
        _check_rows("object", self.image_ids, self.classes, self.image_index, self.boxes, self.labels)

    def __len__(self) -> int:
        return len(self.image_index)

    @classmethod
    def from_annotations(cls, annotations: Sequence[AnnotationLike], classes: Sequence[str]) -> TruthTable:
        """Return the table of one annotation per image."""
        areas: list[Any] = [getattr(item, "areas", None) for item in annotations]
        has_areas = bool(areas) and all(part is not None for part in areas)
        return cls(
            image_ids=tuple(item.image_id for item in annotations),
            classes=tuple(classes),
            image_index=np.repeat(np.arange(len(annotations)), [len(item.boxes) for item in annotations]),
            boxes=_column([item.boxes for item in annotations], np.float64, (4,)),
            labels=_column([item.labels for item in annotations], np.int64),
            difficult=_column([item.difficult for item in annotations], np.bool_),
            sizes=np.array([(item.width, item.height) for item in annotations], np.int64).reshape(-1, 2),
            truncated=_column([item.truncated for item in annotations], np.bool_),
            occluded=_column([item.occluded for item in annotations], np.bool_),
            areas=_column(areas, np.float64) if has_areas else None,
        )

    def select(self, keep: BoolArray | IntArray) -> TruthTable:
        """Return the objects `keep` (a mask [G] or indices), with all images and classes."""
        columns = ("image_index", "boxes", "labels", "difficult", "truncated", "occluded", "areas")
        kept = {name: column[keep] for name in columns if (column := getattr(self, name)) is not None}
        return replace(self, **kept)


def _column(parts: Sequence[Tensor], dtype: Any, tail: tuple[int, ...] = ()) -> Any:
    """Join tensors along their first dimension into one array of the given type."""
    arrays = [part.detach().cpu().numpy().reshape(-1, *tail) for part in parts]
    return np.concatenate(arrays).astype(dtype) if arrays else np.zeros((0, *tail), dtype)


def _check_names(names: Sequence[str], kind: str) -> None:
    if len(set(names)) != len(names):
        repeated = [name for name, count in Counter(names).items() if count > 1]
        raise ValueError(f"expected every {kind} once, got {repeated[0]} {Counter(names)[repeated[0]]} times")


def _check_rows(
    kind: str,
    image_ids: Sequence[str],
    classes: Sequence[str],
    image_index: IntArray,
    boxes: FloatArray,
    labels: IntArray,
) -> None:
    """Raise ValueError for the first row with an invalid image, box or label."""
    for row in np.flatnonzero((image_index < 0) | (image_index >= len(image_ids)))[:1].tolist():
        listed = f"the table lists {len(image_ids)}, counted from 0"
        raise ValueError(f"{kind} {row}: unknown image number {image_index[row]}, {listed}")
    for row in np.flatnonzero(~np.isfinite(boxes).all(axis=1))[:1].tolist():
        box = boxes[row].tolist()
        raise ValueError(f"{kind} {row}, image {image_ids[int(image_index[row])]}: the box {box} is not finite")
    for row in np.flatnonzero((boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1]))[:1].tolist():
        box = boxes[row].tolist()
        raise ValueError(
            f"{kind} {row}, image {image_ids[int(image_index[row])]}: the box {box} is inverted (x1 y1 x2 y2)"
        )
    for row in np.flatnonzero((labels < 1) | (labels > len(classes)))[:1].tolist():
        raise ValueError(
            f"{kind} {row}, image {image_ids[int(image_index[row])]}: label {labels[row]} has no class, expected "
            f"1..{len(classes)}"
        )


def _check_same(ours: Sequence[str], theirs: Sequence[str], kind: str) -> None:
    """Raise ValueError unless the detections and the ground truth have the same set of names."""
    known, wanted = set(ours), set(theirs)
    if unknown := [name for name in ours if name not in wanted]:
        raise ValueError(
            f"unknown {kind} {unknown[0]} ({len(unknown)} in all): in the detections, but not in the dataset; "
            "evaluate them on the dataset and split that they were made on"
        )
    if absent := [name for name in theirs if name not in known]:
        raise ValueError(
            f"missing {kind} {absent[0]} ({len(absent)} in all): in the dataset, but not in the detections; "
            "evaluate them on the dataset and split that they were made on"
        )
