"""The HTML page of `detector analyze`: plain HTML and CSS with inline SVG, self-contained, no script.

Each section is a function that takes the analysis and returns HTML. `render` joins them with one style sheet.
"""

from __future__ import annotations

from html import escape

import numpy as np

from detector.datasets.sample import Dataset
from detector.metrics.errors import CAUSES, Outcome
from detector.tools.report.analysis import Analysis
from detector.tools.report.drawn_boxes import Box, Mark, around, drawn_boxes
from detector.tools.report.examples import first_with_picture
from detector.tools.report.plots import bars, heat_map, lines, precision_recall, reliability, stacked_bars
from detector.tools.report.training_record import TrainingRecord

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

STYLE = """
:root { --ink: #1c2430; --soft: #5d6b7d; --line: #dfe4ea; --page: #f5f6f8; --card: #fff; --accent: #2f6fde;
  --right: #1a9850; --classification: #8e44ad; --localisation: #e67e22; --both: #c2185b; --duplicate: #b59b00;
  --background: #d62728; --missed: #607080; --truth: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #9aa7b8; --line: #323b48; --page: #14181f;
  --card: #1c222b; --accent: #6ea0ff; --missed: #8fa1b5; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 0 0 4px; } h3 { font-size: 14px; margin: 0; }
p { margin: 0 0 12px; color: var(--soft); max-width: 86ch; } code { font-size: 13px; overflow-wrap: anywhere; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 20px 22px;
  margin-top: 18px; overflow-x: auto; }
nav { display: flex; flex-wrap: wrap; gap: 0 14px; margin: 12px 0 0; font-size: 14px; }
nav a { color: var(--accent); text-decoration: none; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 3px 12px; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0; } td.text, th.text { text-align: left; }
th { color: var(--soft); font-weight: 600; } tr.total td { font-weight: 700; border-bottom: 0; }
.tiles, .grid { display: grid; gap: 14px; } .tiles { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; }
.tile b { display: block; font-size: 25px; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
.curves { grid-template-columns: repeat(auto-fill, minmax(min(240px, 100%), 1fr)); }
.worst { grid-template-columns: repeat(auto-fill, minmax(min(460px, 100%), 1fr)); }
.crops { grid-template-columns: repeat(auto-fill, minmax(min(220px, 100%), 1fr)); }
.columns { display: flex; flex-wrap: wrap; gap: 36px; } figure { margin: 0; } figcaption { font-size: 13px;
  color: var(--soft); margin-top: 4px; } .key { font-size: 13px; color: var(--soft); }
.key i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin: 0 5px 0 14px; }
svg { max-width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg .value, svg .tick { fill: var(--soft); } svg .tick { font-size: 11px; } svg .count { font-size: 10.5px; }
svg .count.strong { fill: #fff; } svg .bar { fill: var(--accent); fill-opacity: .8; }
svg .frame { fill: none; stroke: var(--line); } rect.grid, svg .grid { fill: none; stroke: var(--line); }
svg .ideal { stroke: var(--soft); stroke-dasharray: 4 4; } svg .curve { fill: none; stroke: var(--accent);
  stroke-width: 1.6; } svg .area { fill: var(--accent); fill-opacity: .13; }
svg .agree { fill: var(--right); } svg .differ { fill: var(--background); }
svg .picture { border-radius: 6px; } .mark { fill: none !important; stroke-width: 2.4; }
@media (max-width: 640px) { main { padding: 20px 12px 40px; } section { padding: 16px 14px; }
  svg:not(.picture) { max-width: max(100%, 420px); } /* a plot scrolls: its text stays readable */ }
.mark.truth { stroke: var(--truth); stroke-width: 1.6; stroke-dasharray: 5 4; }
text.name { font-weight: 700; paint-order: stroke; stroke: #000c; stroke-width: 3px; stroke-linejoin: round; }
svg text.name.truth { fill: var(--truth); } svg text.name.missed { fill: #cfe0ff; }
"""
COLOURED = ("right", *CAUSES)
STYLE += "".join(
    f"svg rect.{name}, .key i.{name} {{ fill: var(--{name}); background: var(--{name}); }} "
    f".mark.{name} {{ stroke: var(--{name}); }} svg text.name.{name} {{ fill: #fff; }}\n"
    for name in COLOURED
)
STYLE += "".join(
    f"svg .line{number} {{ stroke: {colour}; }} svg .dot.line{number} {{ fill: {colour}; stroke: none; }}\n"
    for number, colour in enumerate(("#2f6fde", "#e67e22", "#1a9850", "#c2185b", "#8e44ad", "#00a3a3"))
)
STYLE += "svg .line { fill: none; stroke-width: 1.6; }\n"
STYLE += ".mark.missed { stroke: #7fb0ff; stroke-dasharray: 5 4; stroke-width: 2.6; }\n"


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
    links = "".join(f'<a href="#s{number}">{name}</a>' for number, name in enumerate(sections))
    body = "".join(
        f'<section id="s{number}"><h2>{name}</h2>{content}</section>'
        for number, (name, content) in enumerate(sections.items())
    )
    title = f"Detections on {escape(analysis.dump.dataset)}"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><main><h1>{title}</h1>"
        f"{summary(analysis)}<nav>{links}</nav>{body}</main></body></html>\n"
    )


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
    tiles = []
    if analysis.scores.voc is not None:
        for name, result in analysis.scores.voc.results.items():
            tiles.append((result.mean, f"mAP, {name}, {analysis.scores.voc.coverage}"))
    if analysis.scores.coco is not None:
        tiles += [(analysis.scores.coco.statistics[name], f"COCO {name}") for name in ("AP", "AP50", "AP75")]
    shown = "".join(f'<div class="tile"><b>{_decimal(value)}</b><span>{name}</span></div>' for value, name in tiles)
    return f'<p>{about}</p><div class="tiles">{shown}</div>'


def training(record: TrainingRecord) -> str:
    """Return plots of loss, mAP and learning rate, the speed, and the plan with its reasons."""
    steps = record.losses["loss"][-1][0] if record.losses.get("loss") else 0
    speed = [value for _, value in record.images_per_s]
    facts = [f"{steps:,} steps"] if steps else []
    facts += [f"{record.minutes:.1f} minutes"] if record.minutes is not None else []
    facts += [f"{float(np.median(speed)):.1f} images/s (median)"] if speed else []
    plots = [("loss", record.losses), ("mAP on the test split", record.scores)]
    if record.learning_rate:
        plots.append(("learning rate", {"learning rate": record.learning_rate}))
    drawn = "".join(
        f"<figure><h3>{name}</h3>{lines(dict(curves))}</figure>" for name, curves in plots if any(curves.values())
    )
    plan = ""
    if record.plan:
        rows = [list(row) for row in record.plan]
        table = _table(["setting", "value", "reason"], rows, text_column=2)
        plan = f"<details><summary>The plan: {len(rows)} settings and their reasons</summary>{table}</details>"
    return f'<p>{escape(", ".join(facts))}</p><div class="columns">{drawn}</div>{plan}'


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
    rows.append(["mean", "", *(_decimal(item.mean) for item in results.values())])
    lead = f"<p>Average precision at IoU {analysis.settings.iou_threshold:g}; bars by {analysis.split.protocol}.</p>"
    table = _table(["class", "objects", *results], rows, total=True)
    return f'{lead}<div class="columns"><figure>{plot}</figure>{table}</div>'


def errors(analysis: Analysis) -> str:
    """Return the mAP that each cause costs, and the outcomes of each class's detections with the highest scores."""
    split = analysis.split
    plot = bars([(name, split.delta_ap[name], f"+{split.delta_ap[name]:.4f}") for name in CAUSES])
    rows = [[name, f"{delta:.4f}", f"{split.count[name]:,}", MEANING[name]] for name, delta in split.delta_ap.items()]
    table = _table(["cause", "mAP gain", "count", "meaning"], rows, text_column=3)
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
    return f'{lead}<div class="columns"><figure>{plot}</figure>{table}</div><br>{best_lead}{_key(parts)}{stacked}'


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
        [f"{low:.1f} to {high:.1f}", f"{count:,}", _decimal(score), _decimal(precision)]
        for low, high, count, score, precision in zip(
            found.edges[:-1], found.edges[1:], found.count, found.score, found.precision, strict=True
        )
    ]
    error = "none" if found.error is None else f"{found.error:.4f}"
    table = _table(["scores", "detections", "mean score", "precision"], rows)
    plot = reliability(found.edges, found.count, found.score, found.precision)
    return (
        "<p>The share of correct detections at each score. On the dashed line a score is a probability. Below it the "
        f"scores are too high. Expected calibration error <b>{error}</b>.</p>"
        f'<div class="columns"><figure>{plot}</figure>{table}</div>'
    )


def best(analysis: Analysis, dataset: Dataset) -> str:
    """Return the images without a mistake, those with most objects first."""
    figures = []
    for position, picture in first_with_picture(analysis.best, dataset.image, analysis.settings.pictures // 2):
        image = analysis.best[position]
        name = escape(analysis.truths.image_ids[image])
        figures.append(
            f"<figure>{drawn_boxes(picture, _marks(analysis, image))}<figcaption>{name}</figcaption></figure>"
        )
    lead = (
        f"<p>{len(analysis.best)} of {len(analysis.truths.image_ids)} images have no missed object and no false "
        f"detection with a score of {analysis.settings.score_threshold:g} or more. Most objects first.</p>"
    )
    return f'{lead}<div class="grid worst">{"".join(figures)}</div>'


def worst(analysis: Analysis, dataset: Dataset) -> str:
    """Return the images with most mistakes: a table of names, and drawings of those with a readable picture."""
    images = [item.image for item in analysis.worst]
    figures, drawn = [], set()
    for position, picture in first_with_picture(images, dataset.image, analysis.settings.pictures):
        item = analysis.worst[position]
        drawn.add(item.image)
        name = escape(analysis.truths.image_ids[item.image])
        caption = f"{name}: {item.missed} missed, {item.false_positives} false"
        shown = drawn_boxes(picture, _marks(analysis, item.image))
        figures.append(f"<figure>{shown}<figcaption>{caption}</figcaption></figure>")
    rows = [
        [analysis.truths.image_ids[item.image], str(item.missed), str(item.false_positives),
         "drawn" if item.image in drawn else "no picture"]
        for item in analysis.worst[: max(analysis.settings.pictures, 1)]
    ]  # fmt: skip
    listed = _table(["image", "missed", "false", "picture"], rows, text_column=3)
    lead = (
        f"<p>Images by missed objects and false detections with a score of {analysis.settings.score_threshold:g} or "
        "more, most first. Images without a readable picture are not drawn.</p>"
    )
    key = _key(("right", *CAUSES)) + '<span class="key">&emsp;white, dashed: the other objects</span>'
    return f'{lead}{listed}<br>{key}<div class="grid worst">{"".join(figures)}</div>'


def mistakes(analysis: Analysis, dataset: Dataset) -> str:
    """Return the false positives with the highest scores: a table, and crops of those with a readable picture."""
    table, truths, split = analysis.detections, analysis.truths, analysis.split
    images = table.image_index[analysis.mistakes].tolist()
    figures, drawn = [], set()
    for position, picture in first_with_picture(images, dataset.image, analysis.settings.pictures):
        row = int(analysis.mistakes[position])
        drawn.add(row)
        cause, truth = Outcome(split.outcomes[row]).name, int(split.objects[row])
        box = _box(table.boxes[row])
        text = f"{truths.classes[table.labels[row] - 1]} {table.scores[row]:.2f}"
        marks, boxes = [Mark(box, cause, text)], [box]
        if truth >= 0:
            boxes.append(_box(truths.boxes[truth]))
            marks.insert(0, Mark(boxes[-1], "truth", ""))
        shown = drawn_boxes(picture, marks, region=around(boxes), longest=230)
        caption = f"<b>{cause}</b>{escape(_on(analysis, truth))}, {escape(truths.image_ids[table.image_index[row]])}"
        figures.append(f"<figure>{shown}<figcaption>{caption}</figcaption></figure>")
    rows = []
    for row in analysis.mistakes[: max(analysis.settings.pictures, 1)].tolist():
        image = truths.image_ids[table.image_index[row]]
        mistake = f"{Outcome(split.outcomes[row]).name}{_on(analysis, int(split.objects[row]))}"
        picture_column = "drawn" if row in drawn else "no picture"
        name = truths.classes[table.labels[row] - 1]
        rows.append([name, f"{table.scores[row]:.4f}", image, mistake, picture_column])
    listed = _table(["class", "score", "image", "mistake", "picture"], rows, text_column=3)
    lead = (
        "<p>The false detections with the highest scores, at or above the same threshold. "
        "Dashed: the object that the detection overlaps.</p>"
    )
    return f'{lead}{listed}<br><div class="grid crops">{"".join(figures)}</div>'


def _on(analysis: Analysis, truth: int) -> str:
    return "" if truth < 0 else f" on {analysis.truths.classes[analysis.truths.labels[truth] - 1]}"


def _marks(analysis: Analysis, image: int) -> list[Mark]:
    """Return an image's objects, then its detections at or above the score threshold, highest score last."""
    table, truths, split = analysis.detections, analysis.truths, analysis.split
    marks = []
    for row in np.flatnonzero(truths.image_index == image):
        name = truths.classes[truths.labels[row] - 1]
        missed = bool(split.missed[row])
        marks.append(Mark(_box(truths.boxes[row]), "missed" if missed else "truth", name if missed else ""))
    rows = np.flatnonzero((table.image_index == image) & (table.scores >= analysis.settings.score_threshold))
    for row in rows[np.argsort(table.scores[rows], kind="stable")]:
        outcome = Outcome(split.outcomes[row])
        if outcome is not Outcome.ignored:
            text = f"{truths.classes[table.labels[row] - 1]} {table.scores[row]:.2f}"
            marks.append(Mark(_box(table.boxes[row]), outcome.name, text))
    return marks


def _box(box: np.ndarray) -> Box:
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, x2, y2


def _decimal(value: float | None) -> str:
    return "none" if value is None or np.isnan(value) else f"{value:.4f}"


def _key(names: tuple[str, ...]) -> str:
    return '<span class="key">' + "".join(f'<i class="{name}"></i>{name}' for name in names) + "</span>"


def _table(heads: list[str], rows: list[list[str]], *, total: bool = False, text_column: int | None = None) -> str:
    """Return an HTML table. In a row with fewer cells, the last cell fills the row."""

    def cell(tag: str, column: int, text: str, span: int = 1) -> str:
        kind = ' class="text"' if column == text_column else ""
        return f"<{tag}{kind}{f' colspan={span}' if span > 1 else ''}>{escape(text)}</{tag}>"

    lines = ["<tr>" + "".join(cell("th", column, text) for column, text in enumerate(heads)) + "</tr>"]
    for number, row in enumerate(rows):
        last = len(row) - 1
        cells = (cell("td", c, text, len(heads) - last if c == last else 1) for c, text in enumerate(row))
        kind = ' class="total"' if total and number == len(rows) - 1 else ""
        lines.append(f"<tr{kind}>{''.join(cells)}</tr>")
    return f"<table>{''.join(lines)}</table>"
