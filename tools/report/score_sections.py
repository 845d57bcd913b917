"""The sections of the analysis page about scores and errors, each a function of the analysis."""

from __future__ import annotations

from html import escape

import numpy as np

from detector.metrics.errors import CAUSES, Outcome
from detector.tools.report.analysis import Analysis
from detector.tools.report.html import decimal, key, table
from detector.tools.report.plots import bars, heat_map, precision_recall, reliability, stacked_bars

MEANING = {
    "classification": "on an object, but with another class",
    "localisation": "on an object of its class, but the overlap is too small",
    "both": "near an object of another class: class and box are wrong",
    "duplicate": "on an object that a detection with a higher score found",
    "background": "on no annotated object",
    "missed": "objects without any detection, not even a wrong one",
    "false positives": "the first five causes together",
    "false negatives": "all objects that are not found, for any reason",
}


def classes(analysis: Analysis) -> str:
    """Return AP by class and protocol. The bars show the worst class first."""
    found = analysis.result.average_precision
    plot = bars([(name, value, f"{value:.4f}") for name, value in sorted(found.items(), key=lambda item: item[1])])
    rows = []
    results = (
        analysis.scores.voc.results if analysis.scores.voc is not None else {analysis.split.protocol: analysis.result}
    )
    for label, name in enumerate(analysis.truths.classes, 1):
        objects = int(((analysis.truths.labels == label) & ~analysis.truths.difficult).sum())
        if name in found:
            rows.append([name, str(objects), *(f"{item.average_precision[name]:.4f}" for item in results.values())])
        else:
            reason = "no detections file" if name in analysis.detections.unsearched else "no ground truth"
            rows.append([name, str(objects), f"left out: {reason}"])
    rows.append(["mean", "", *(decimal(item.mean) for item in results.values())])
    lead = f"<p>Average precision at IoU {analysis.settings.iou_threshold:g}; bars by {analysis.split.protocol}.</p>"
    listed = table(["class", "objects", *results], rows, total=True)
    return f'{lead}<div class="columns"><figure>{plot}</figure>{listed}</div>'


def errors(analysis: Analysis) -> str:
    """Return the mAP that each cause costs, and the outcomes of each class's detections with the highest scores."""
    split = analysis.split
    plot = bars([(name, split.delta_ap[name], f"+{split.delta_ap[name]:.4f}") for name in CAUSES])
    rows = [[name, f"{delta:.4f}", f"{split.count[name]:,}", MEANING[name]] for name, delta in split.delta_ap.items()]
    listed = table(["cause", "mAP gain", "count", "meaning"], rows, text_column=3)
    lead = (
        "<p>The mAP gained if only one cause is corrected, after TIDE (Bolya et al., ECCV 2020), measured by "
        f"{split.protocol}. The gains do not add up: a corrected cause reveals others.</p>"
    )
    parts = ("right", *CAUSES[:-1])
    shares = []
    for label, name in enumerate(analysis.truths.classes, 1):
        rows_of_class = np.flatnonzero((analysis.detections.labels == label) & (split.outcomes != Outcome.ignored))
        objects = int(((analysis.truths.labels == label) & ~analysis.truths.difficult).sum())
        best = rows_of_class[np.argsort(-analysis.detections.scores[rows_of_class], kind="stable")][:objects]
        if len(best):
            shares.append((name, [int((split.outcomes[best] == Outcome[part]).sum()) for part in parts]))
    stacked = stacked_bars(shares, parts, width=760)
    best_lead = "<h3>The detections with the highest scores of each class, as many as the class has objects</h3>"
    return f'{lead}<div class="columns"><figure>{plot}</figure>{listed}</div><br>{best_lead}{key(parts)}{stacked}'


def curves(analysis: Analysis) -> str:
    """Return a small precision-recall plot for each class."""
    figures = []
    for name, curve in analysis.result.curves.items():
        value = analysis.result.average_precision[name]
        plot = precision_recall(curve.recall, curve.precision)
        figures.append(f"<figure><h3>{escape(name)} &nbsp;{value:.4f}</h3>{plot}</figure>")
    return (
        "<p>Precision against recall, for falling score thresholds. Shaded: the best precision at this or a higher "
        f'recall.</p><div class="grid curves">{"".join(figures)}</div>'
    )


def kinds(analysis: Analysis) -> str:
    """Return mAP by size, aspect, truncation and occlusion of the objects."""
    groups: dict[str, list[tuple[str, float, str]]] = {}
    for item in analysis.by_attribute:
        text = "no such object" if item.mean is None else f"{item.mean:.4f} of {item.num_truths:,}"
        groups.setdefault(item.property, []).append((item.name, item.mean or 0.0, text))
    figures = (f"<figure><h3>{name}</h3>{bars(rows, width=480)}</figure>" for name, rows in groups.items())
    return (
        f"<p>mAP ({analysis.split.protocol}) over the objects of one kind, and their number. Objects of other kinds, "
        "and detections on them, do not count. Size: small below 32&sup2; pixels, large from 96&sup2;. Aspect: tall "
        "below 1:2, wide above 2:1. "
        "Compare two detectors on one kind, not two kinds of one detector: a rare kind has a lower AP because it is "
        f'rare.</p><div class="columns">{"".join(figures)}</div>'
    )


def confusion(analysis: Analysis) -> str:
    """Return the confusion matrix: true classes against predicted classes."""
    names = ["background", *analysis.truths.classes]
    shown = [row for row, name in enumerate(names) if name not in analysis.detections.unsearched]
    return (
        f"<p>Rows: the true class. Columns: the class of the detection, for scores of "
        f"{analysis.settings.score_threshold:g} or more. Row background: detections on no object, or on an object "
        "already found. Column background: objects that are not found. Shades show the share of the row.</p>"
        f"{heat_map(analysis.confusion[np.ix_(shown, shown)], [names[row] for row in shown])}"
    )


def calibration(analysis: Analysis) -> str:
    """Return the reliability plot, which shows if scores are probabilities."""
    found = analysis.calibration
    if isinstance(found, str):
        return f"<p>Not measured: {escape(found)}.</p>"
    rows = [
        [f"{low:.1f} to {high:.1f}", f"{count:,}", decimal(score), decimal(precision)]
        for low, high, count, score, precision in zip(
            found.edges[:-1], found.edges[1:], found.count, found.score, found.precision, strict=True
        )
    ]
    error = "none" if found.error is None else f"{found.error:.4f}"
    listed = table(["scores", "detections", "mean score", "precision"], rows)
    plot = reliability(found.edges, found.count, found.score, found.precision)
    return (
        "<p>The share of correct detections at each score. On the dashed line a score is a probability. Below it the "
        f"scores are too high. Expected calibration error <b>{error}</b>.</p>"
        f'<div class="columns"><figure>{plot}</figure>{listed}</div>'
    )
