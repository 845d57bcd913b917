"""AP for each kind of object: by size, by aspect, by truncation and by occlusion.

Objects of other kinds count as difficult, so a detection of one is neither right nor wrong. A box shows its size and
aspect. So for these a background detection of another kind is left out too, as in COCO's area ranges. A box does not
show truncation and occlusion. So for these every background detection is a false positive, and for this reason alone
the rarer kind has the lower AP. Compare detectors within a kind, not kinds within a detector.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from detector.metrics import voc
from detector.metrics.matching import matches
from detector.metrics.tables import BoolArray, DetectionTable, FloatArray, TruthTable


@dataclass(frozen=True, slots=True)
class AttributeResult:
    """AP of one kind of object."""

    property: str  # size, aspect, truncated or occluded
    name: str
    num_truths: int  # objects of this kind that are not difficult
    mean: float | None  # mAP over the classes that have such objects, None if no class has any
    average_precision: dict[str, float]  # by class


def by_attribute(
    detections: DetectionTable, truths: TruthTable, protocol: str = "voc_area", iou_threshold: float = 0.5
) -> list[AttributeResult]:
    """Return the AP of every kind of object; truncation and occlusion only if `truths` has them.

    Sizes are COCO's, in square pixels: small below 32^2, large from 96^2. Aspect is width / height: tall below
    1/2, wide above 2. Raises ValueError if the tables differ in images or classes.
    """
    detections = detections.aligned(truths)
    overlap, _ = matches(detections, truths)
    hit = overlap >= iou_threshold  # on an object: the kind of this object decides
    truth_kinds, detection_kinds = _kinds_of_boxes(truths.boxes), _kinds_of_boxes(detections.boxes)
    results = []
    for key, of_kind in truth_kinds.items():
        shown = detections.select(hit | detection_kinds[key])
        results.append(_result(key, shown, truths, of_kind, protocol, iou_threshold))
    for name, flags in (("truncated", truths.truncated), ("occluded", truths.occluded)):
        if flags is not None:
            for answer, of_kind in (("no", ~flags), ("yes", flags)):
                results.append(_result((name, answer), detections, truths, of_kind, protocol, iou_threshold))
    return results


def _kinds_of_boxes(boxes: FloatArray) -> dict[tuple[str, str], BoolArray]:
    """Return masks [M] of boxes [M, 4] by property and kind. Each box has one kind of each property."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    area = width * height
    return {
        ("size", "small"): area < 32**2,
        ("size", "medium"): (area >= 32**2) & (area < 96**2),
        ("size", "large"): area >= 96**2,
        ("aspect", "tall"): 2 * width < height,
        ("aspect", "square"): (2 * width >= height) & (width <= 2 * height),
        ("aspect", "wide"): width > 2 * height,
    }


def _result(
    key: tuple[str, str],
    detections: DetectionTable,
    truths: TruthTable,
    of_kind: BoolArray,
    protocol: str,
    iou_threshold: float,
) -> AttributeResult:
    only = replace(truths, difficult=truths.difficult | ~of_kind)
    result = voc.evaluate(detections, only, [protocol], iou_threshold).results[protocol]
    return AttributeResult(*key, int((~only.difficult).sum()), result.mean, result.average_precision)
