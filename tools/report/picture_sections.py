"""The sections of the analysis page with pictures: the best and worst images, and the most confident mistakes."""

from __future__ import annotations

from html import escape

import numpy as np

from detector.datasets.sample import Dataset
from detector.metrics.errors import CAUSES, Outcome
from detector.tools.report.analysis import Analysis
from detector.tools.report.drawn_boxes import Box, Mark, around, drawn_boxes
from detector.tools.report.examples import first_with_picture
from detector.tools.report.html import key, table


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
    listed = table(["image", "missed", "false", "picture"], rows, text_column=3)
    lead = (
        f"<p>Images by missed objects and false detections with a score of {analysis.settings.score_threshold:g} or "
        "more, most first. Images without a readable picture are not drawn.</p>"
    )
    colours = key(("right", *CAUSES)) + '<span class="key">&emsp;white, dashed: the other objects</span>'
    return f'{lead}{listed}<br>{colours}<div class="grid worst">{"".join(figures)}</div>'


def mistakes(analysis: Analysis, dataset: Dataset) -> str:
    """Return the false positives with the highest scores: a table, and crops of those with a readable picture."""
    found, truths, split = analysis.detections, analysis.truths, analysis.split
    images = found.image_index[analysis.mistakes].tolist()
    figures, drawn = [], set()
    for position, picture in first_with_picture(images, dataset.image, analysis.settings.pictures):
        row = int(analysis.mistakes[position])
        drawn.add(row)
        cause, truth = Outcome(split.outcomes[row]).name, int(split.objects[row])
        box = _box(found.boxes[row])
        text = f"{truths.classes[found.labels[row] - 1]} {found.scores[row]:.2f}"
        marks, boxes = [Mark(box, cause, text)], [box]
        if truth >= 0:
            boxes.append(_box(truths.boxes[truth]))
            marks.insert(0, Mark(boxes[-1], "truth", ""))
        shown = drawn_boxes(picture, marks, region=around(boxes), longest=230)
        caption = f"<b>{cause}</b>{escape(_on(analysis, truth))}, {escape(truths.image_ids[found.image_index[row]])}"
        figures.append(f"<figure>{shown}<figcaption>{caption}</figcaption></figure>")
    rows = []
    for row in analysis.mistakes[: max(analysis.settings.pictures, 1)].tolist():
        image = truths.image_ids[found.image_index[row]]
        mistake = f"{Outcome(split.outcomes[row]).name}{_on(analysis, int(split.objects[row]))}"
        picture_column = "drawn" if row in drawn else "no picture"
        name = truths.classes[found.labels[row] - 1]
        rows.append([name, f"{found.scores[row]:.4f}", image, mistake, picture_column])
    listed = table(["class", "score", "image", "mistake", "picture"], rows, text_column=3)
    lead = (
        "<p>The false detections with the highest scores, at or above the same threshold. "
        "Dashed: the object that the detection overlaps.</p>"
    )
    return f'{lead}{listed}<br><div class="grid crops">{"".join(figures)}</div>'


def _on(analysis: Analysis, truth: int) -> str:
    return "" if truth < 0 else f" on {analysis.truths.classes[analysis.truths.labels[truth] - 1]}"


def _marks(analysis: Analysis, image: int) -> list[Mark]:
    """Return an image's objects, then its detections at or above the score threshold, highest score last."""
    found, truths, split = analysis.detections, analysis.truths, analysis.split
    marks = []
    for row in np.flatnonzero(truths.image_index == image):
        name = truths.classes[truths.labels[row] - 1]
        missed = bool(split.missed[row])
        marks.append(Mark(_box(truths.boxes[row]), "missed" if missed else "truth", name if missed else ""))
    rows = np.flatnonzero((found.image_index == image) & (found.scores >= analysis.settings.score_threshold))
    for row in rows[np.argsort(found.scores[rows], kind="stable")]:
        outcome = Outcome(split.outcomes[row])
        if outcome is not Outcome.ignored:
            text = f"{truths.classes[found.labels[row] - 1]} {found.scores[row]:.2f}"
            marks.append(Mark(_box(found.boxes[row]), outcome.name, text))
    return marks


def _box(box: np.ndarray) -> Box:
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, x2, y2
