"""The HTML page of `detector analyze`. Each section is a function that takes the analysis and returns HTML."""

from __future__ import annotations

from html import escape

from detector.datasets.sample import Dataset
from detector.tools.report.analysis import Analysis
from detector.tools.report.html import decimal, page, tiles
from detector.tools.report.picture_sections import best, mistakes, worst
from detector.tools.report.score_sections import calibration, classes, confusion, curves, errors, kinds
from detector.tools.report.training_record import TrainingRecord
from detector.tools.report.training_section import training


def render(analysis: Analysis, dataset: Dataset, record: TrainingRecord | None = None) -> str:
    """Return the whole page. With the `record` of the detections' run, the training is the first section."""
    sections = {
        **({} if record is None else {"Training": training(record)}),
        "Classes": classes(analysis),
        "Errors": errors(analysis),
        "Curves": curves(analysis),
        "Kinds of objects": kinds(analysis),
        "Confusion": confusion(analysis),
        "Calibration": calibration(analysis),
        "Best images": best(analysis, dataset),
        "Worst images": worst(analysis, dataset),
        "Confident mistakes": mistakes(analysis, dataset),
    }
    return page(f"Detections on {analysis.dump.dataset}", summary(analysis), sections)


def summary(analysis: Analysis) -> str:
    """Return the description of the detections, and the mAP by every protocol."""
    table, truths = analysis.detections, analysis.truths
    counted = int((~truths.difficult).sum())
    postprocess = ", ".join(f"{key} {value}" for key, value in analysis.dump.postprocess.items()) or "not stated"
    about = (
        f"{len(table):,} detections in {len(truths.image_ids):,} images with {counted:,} objects that "
        f"count and {int(truths.difficult.sum()):,} difficult ones, {len(truths.classes)} classes. "
        f"Post-processing: {escape(postprocess)}. Model: <code>{escape(analysis.dump.model or 'not stated')}</code>"
    )
    values = []
    if analysis.scores.voc is not None:
        for name, result in analysis.scores.voc.results.items():
            values.append((decimal(result.mean), f"mAP, {name}, {analysis.scores.voc.coverage}"))
    if analysis.scores.coco is not None:
        statistics = analysis.scores.coco.statistics
        values += [(decimal(statistics[name]), f"COCO {name}") for name in ("AP", "AP50", "AP75")]
    return f"<p>{about}</p>{tiles(values)}"
