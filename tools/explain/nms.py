"""`detector explain nms [boxes=... scores=... iou=...]`: the boxes that non-maximum suppression keeps and removes.

Boxes are numbered by falling score. The operator itself decides which boxes stay, and which kept box removes another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from detector.configs.errors import ConfigError
from detector.ops import nms
from detector.ops.boxes import iou
from detector.tools.explain.canvas import Box, Canvas, Color, text_width
from detector.tools.explain.draw import FAINT, GAP, INK, LINES, OUTSIDE, PAPER, ROI
from detector.tools.explain.operators import check_picture_name, is_dark, numbers, split_settings

SETTINGS = ("boxes", "scores", "iou", "output", "theme")
# Two objects side by side. Box 6 overlaps box 4 by more than 0.5, but box 4 is already removed and removes no box.
BOXES = "40,60,200,300;60,72,214,310;180,110,380,290;40,130,212,340;196,124,396,300;40,200,212,372;230,60,300,130"
SCORES = "0.95,0.88,0.91,0.74,0.66,0.52,0.31"
KEPT, REMOVED = ROI, (200, 50, 60)
SIDE, ROW = 460, 26  # in pixels: the longer side of the area of all boxes, and a line of text
MARKS = "solid: kept; dashed: removed by a kept box of a higher score"


@dataclass(frozen=True, slots=True)
class Suppression:
    """Boxes by falling score (equal scores in the given order), and for each whether it is kept or removed."""

    boxes: Tensor  # [N, 4] float32 xyxy
    scores: Tensor  # [N] float32, falling
    iou_threshold: float
    removed_by: list[tuple[int, float] | None]  # [N] the kept box and its IoU; None for a box that is kept itself

    def lines(self) -> list[tuple[Color, str]]:
        """One line per box: its score and whether it is kept or removed, with the colour of the box."""
        lines = []
        for number, (score, cause) in enumerate(zip(self.scores.tolist(), self.removed_by, strict=True), start=1):
            outcome = "kept" if cause is None else f"removed by {cause[0] + 1}, IoU {cause[1]:.3f}"
            lines.append((KEPT if cause is None else REMOVED, f"{number:<3} score {score:<6.4g} {outcome}"))
        return lines

    def title(self) -> str:
        """Return the heading of the picture."""
        kept = self.removed_by.count(None)
        return f"nms: {kept} of {len(self.boxes)} boxes kept, IoU threshold {self.iou_threshold:g}"


def run_explain_nms(words: Sequence[str]) -> Suppression:
    """Print and draw the suppression for `key=value ...`. Raises ConfigError, or OSError if writing fails."""
    settings = split_settings(words, SETTINGS, "explain nms")
    if ("boxes" in settings) != ("scores" in settings):
        raise ConfigError("explain nms: give boxes= and scores= together, one score per box")
    parts = settings.get("boxes", BOXES).split(";")
    boxes = torch.tensor([numbers("boxes", part, 4) for part in parts])
    scores = torch.tensor(numbers("scores", settings.get("scores", SCORES), len(parts), "one per box"))
    output = Path(settings.get("output", "runs/explain/nms.png"))
    check_picture_name(output)
    dark = is_dark(settings.get("theme", "light"))
    suppression = suppress(boxes, scores, _threshold(settings.get("iou", "0.5")))
    print(suppression.title())
    for (_, line), box in zip(suppression.lines(), suppression.boxes.tolist(), strict=True):
        print(f"{line:<44} box {' '.join(f'{value:g}' for value in box)}")
    output.parent.mkdir(parents=True, exist_ok=True)
    draw_suppression(suppression, dark=dark).save(output, optimize=True)
    print(f"picture  {output}")
    return suppression


def suppress(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Suppression:
    """Run `nms` on boxes [N, 4] with scores [N]. Find, for each removed box, the first kept box that removes it."""
    order = scores.argsort(descending=True, stable=True)
    boxes, scores = boxes[order], scores[order]
    kept = nms(boxes, scores, iou_threshold).tolist()
    removed_by: list[tuple[int, float] | None] = [None] * len(boxes)
    for index in set(range(len(boxes))) - set(kept):
        pairs = ([winner, index] for winner in kept)
        winner = next(pair[0] for pair in pairs if nms(boxes[pair], scores[pair], iou_threshold).tolist() == [0])
        removed_by[index] = winner, iou(boxes[winner, None], boxes[index, None]).item()
    return Suppression(boxes, scores, iou_threshold, removed_by)


def draw_suppression(suppression: Suppression, *, dark: bool = False) -> Image.Image:
    """Draw the boxes, and below them a line of text for each.

    The number of a kept box is at its top left, the number of a removed box at its bottom right.
    """
    corners = suppression.boxes.double().view(-1, 2)
    low, high = corners.amin(dim=0), corners.amax(dim=0)
    scale = SIDE / max(float((high - low).max()), 1e-6)
    field_width, field_height = ((high - low) * scale + 2 * GAP).tolist()
    lines = suppression.lines()
    texts_width = max(text_width(line, 15) for _, line in lines)
    width = max(field_width, texts_width, text_width(suppression.title(), 19), text_width(MARKS, 15)) + 2 * GAP
    below = 54 + field_height + ROW + 8
    canvas = Canvas(width, below + ROW * len(lines) + GAP, PAPER, dark=dark)
    canvas.text((GAP, 14), suppression.title(), 19, INK)
    field: Box = (GAP, 54, GAP + field_width, 54 + field_height)
    canvas.fill(field, OUTSIDE)
    canvas.outline(field, LINES)
    places = ((corners - low) * scale + torch.tensor([2 * GAP, 54 + GAP])).view(-1, 4)
    # Draw kept boxes last, and boxes with a higher score after others, so that they are on top.
    for index in sorted(range(len(places)), key=lambda i: (suppression.removed_by[i] is None, -i)):
        _draw_box(canvas, places[index].tolist(), str(index + 1), kept=suppression.removed_by[index] is None)
    for row, (color, line) in enumerate(lines):
        canvas.text((GAP, below + ROW * (row + 0.5)), line, 15, color, "lm")
    canvas.text((GAP, below - ROW / 2 - 2), MARKS, 15, FAINT, "lm")
    return canvas.finished()


def _draw_box(canvas: Canvas, place: list[float], number: str, *, kept: bool) -> None:
    (left, right), (top, bottom) = sorted(place[::2]), sorted(place[1::2])
    tag = text_width(number, 14) + 10
    if kept:
        canvas.outline((left, top, right, bottom), KEPT, 2.5)
        label: Box = (left, top, left + tag, top + 20)
    else:
        canvas.dashed((left, top, right, bottom), REMOVED, 2)
        label = (right - tag, bottom - 20, right, bottom)
    canvas.fill(label, KEPT if kept else REMOVED)
    canvas.text(((label[0] + label[2]) / 2, (label[1] + label[3]) / 2), number, 14, PAPER, "mm")


def _threshold(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ConfigError(f"iou={text}: expected a number from 0 to 1")
    return value
