"""The measurements of `detector analyze` on one detector's detections. The HTML page shows them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from detector.configs import schema
from detector.metrics import voc
from detector.metrics.by_attribute import AttributeResult, by_attribute
from detector.metrics.calibration import Calibration, calibrate
from detector.metrics.confusion import confusion_matrix
from detector.metrics.dump import Dump
from detector.metrics.errors import ErrorSplit, split_errors
from detector.metrics.tables import DetectionTable, IntArray, TruthTable
from detector.pipeline.scores import Scores, score
from detector.tools.report.examples import WorstImage, best_images, confident_mistakes, worst_images


@dataclass(frozen=True, slots=True)
class Analysis:
    """The content of the page."""

    dump: Dump
    truths: TruthTable
    settings: schema.EvaluationConfig
    scores: Scores
    result: voc.ProtocolResult  # by the protocol of the analysis
    split: ErrorSplit
    confusion: IntArray  # [K + 1, K + 1]
    by_attribute: list[AttributeResult]
    calibration: Calibration | str  # the reason if there is none: scores outside [0, 1]
    worst: list[WorstImage]
    best: list[int]  # images without a mistake, most objects first
    mistakes: IntArray  # rows of detections, highest score first

    @property
    def detections(self) -> DetectionTable:
        """The detections that were scored."""
        return self.dump.detections

    def to_json(self) -> dict[str, Any]:
        """Return the numbers of the page, without curves and pictures."""
        error = self.calibration if isinstance(self.calibration, str) else self.calibration.error
        return {
            **self.scores.to_json(),
            **self.split.to_json(),
            "by_attribute": [asdict(item) for item in self.by_attribute],
            "calibration_error": error,
            "confusion": {"score_threshold": self.settings.score_threshold, "counts": self.confusion.tolist()},
            "worst_images": [
                {"image": self.truths.image_ids[item.image], "missed": item.missed, "false": item.false_positives}
                for item in self.worst[:100]
            ],
        }


def analyze(dump: Dump, truths: TruthTable, settings: schema.EvaluationConfig) -> Analysis:
    """Measure detections whose images and classes are numbered as in `truths`."""
    detections, protocol, iou = dump.detections, settings.protocol, settings.iou_threshold
    split = split_errors(detections, truths, protocol, iou)
    try:
        calibration: Calibration | str = calibrate(detections, truths, iou_threshold=iou)
    except ValueError as error:
        calibration = str(error)
    worst = worst_images(detections, truths, split, settings.score_threshold)
    return Analysis(
        dump=dump,
        truths=truths,
        settings=settings,
        scores=score(detections, truths, settings),
        result=voc.evaluate(detections, truths, [protocol], iou).results[protocol],
        split=split,
        confusion=confusion_matrix(detections, truths, settings.score_threshold, iou),
        by_attribute=by_attribute(detections, truths, protocol, iou),
        calibration=calibration,
        worst=worst,
        best=best_images(truths, worst),
        mistakes=confident_mistakes(detections, split, settings.score_threshold),
    )
