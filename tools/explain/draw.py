"""The picture of an Explanation: the map with its bins, lost and gained areas, samples, and the pooled values."""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from detector.tools.explain.canvas import Box, Canvas, Color, text_width
from detector.tools.explain.geometry import Explanation, Rect

LOST_CORNERS, LOST_BINS, GAINED = (104, 148, 228), (190, 214, 250), (156, 220, 148)
PAPER, OUTSIDE, LINES, INK, FAINT = (255, 255, 255), (228, 228, 232), (206, 206, 212), (28, 28, 34), (120, 120, 128)
ROI = (20, 60, 160)
# Fill and line color of a bin, by the parity of its row and column, so that neighbours differ.
BINS: tuple[tuple[Color, Color], ...] = (
    ((255, 237, 180), (214, 138, 0)),
    ((255, 216, 216), (200, 50, 60)),
    ((235, 220, 251), (126, 66, 188)),
    ((231, 229, 221), (104, 98, 84)),
)
SMALL_MAP = 9  # an axis with at most this many cells is shown completely
MARGIN_CELLS = 2  # cells shown around the RoI and its bins
# A narrow picture: on a telephone it is shrunk to 360 pixels, and its text must stay legible.
MAP_SIDE, BINS_SIDE, GAP = 480, 186, 24
ROW, LEGEND = 26, 15  # height of a line below the map, size of its text
LABELLED_SAMPLES = 9  # a bin with more samples has no labels


@dataclass(frozen=True, slots=True)
class Frame:
    """A part of a map and its position in the picture."""

    window: Rect  # in cells
    left: float  # in pixels
    top: float
    cell: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixel of a point of the map."""
        return self.left + (x - self.window.left) * self.cell, self.top + (y - self.window.top) * self.cell

    def box(self, rect: Rect, inset: float = 0) -> Box:
        """Pixels of the visible part of a rectangle."""
        seen = rect.cut(self.window)
        left, top = self.at(seen.left, seen.top)
        right, bottom = self.at(seen.right, seen.bottom)
        return left + inset, top + inset, right - inset, bottom - inset


def draw_explanation(
    explanation: Explanation, title: str, *, show_gradient: bool = False, dark: bool = False
) -> Image.Image:
    """Draw the map or the k x k score maps, and below them the pooled values and a legend.

    With `show_gradient`, the cells show the gradient of the sum of all outputs instead of their values. `dark` draws
    for a dark page.
    """
    side = math.isqrt(len(explanation.maps))
    window = _window(explanation)
    columns, rows = window.right - window.left, window.bottom - window.top
    cell = max(10.0, min(64.0, (MAP_SIDE - GAP * (side - 1)) / side / max(columns, rows)))
    map_width, map_height = columns * cell, rows * cell
    maps_width, maps_height = (size * side + GAP * (side - 1) for size in (map_width, map_height))
    bin_side = max(46.0, min(62.0, BINS_SIDE / max(explanation.pooled.shape)))
    pooled_width, pooled_height = explanation.pooled.shape[1] * bin_side, explanation.pooled.shape[0] * bin_side
    if explanation.vote is not None:
        pooled_width, pooled_height = max(pooled_width, text_width(_vote(explanation), 17)), pooled_height + 36
    legend = _legend(explanation, show_gradient)
    legend_width = max(_entry_width(text) for _, text in legend)
    width = max(MAP_SIDE, maps_width, pooled_width, legend_width)
    beside = pooled_width + GAP + legend_width <= width
    titles = _lines(title, width)
    top = 14 + ROW * len(titles) + 26
    below = top + maps_height + 48
    legend_top = below + (0 if beside else pooled_height + 12)
    bottom = max(below + pooled_height, legend_top + ROW * len(legend))
    canvas = Canvas(width + 2 * GAP, bottom + 14, PAPER, dark=dark)
    for number, line in enumerate(titles):
        canvas.text((GAP, 14 + ROW * number), line, 19, INK)
    shown = explanation.gradient if show_gradient else explanation.maps
    for index in range(side * side):
        row, column = divmod(index, side)
        origin = GAP + column * (map_width + GAP), top + row * (map_height + GAP)
        frame = Frame(window, *origin, cell)
        _draw_map(canvas, explanation, shown[index], index, frame)
    _draw_pooled(canvas, explanation, GAP, below, bin_side)
    for number, (mark, text) in enumerate(legend):
        x, y = GAP + (pooled_width + GAP if beside else 0), legend_top + ROW * number
        _draw_mark(canvas, mark, x, y)
        canvas.text((x + 28, y + 9), text, LEGEND, INK, "lm")
    return canvas.finished()


def _window(explanation: Explanation) -> Rect:
    """The part of the map to show: a small map completely, else the RoI and its bins with a margin."""
    height, width = explanation.maps.shape[1:]
    covered = explanation.covered if explanation.covered.area() else explanation.roi
    left, right = _shown_span((explanation.roi.left, explanation.roi.right, covered.left, covered.right), width)
    top, bottom = _shown_span((explanation.roi.top, explanation.roi.bottom, covered.top, covered.bottom), height)
    return Rect(left, top, right, bottom)


def _shown_span(ends: tuple[float, ...], size: int) -> tuple[int, int]:
    """First and end cell to show on an axis, with at most the margin outside the map."""
    low, high = min(ends), max(ends)
    first, last = (0, size) if low >= 0 and high <= size else (-MARGIN_CELLS, size + MARGIN_CELLS)
    start = min(max(math.floor(low) - MARGIN_CELLS, first), last - MARGIN_CELLS)
    end = max(min(math.ceil(high) + MARGIN_CELLS, last), first + MARGIN_CELLS)
    return (min(start, 0), max(end, size)) if size <= SMALL_MAP else (start, end)


def _draw_map(canvas: Canvas, explanation: Explanation, values: Tensor, index: int, frame: Frame) -> None:
    whole = Rect(0, 0, explanation.maps.shape[2], explanation.maps.shape[1])
    single = len(explanation.maps) == 1
    canvas.fill(frame.box(frame.window), OUTSIDE)
    canvas.fill(frame.box(whole), PAPER)
    shown = [
        (row, column)
        for row in range(explanation.pooled.shape[0])
        for column in range(explanation.pooled.shape[1])
        if single or index == row * explanation.pooled.shape[1] + column
    ]
    if single and explanation.rounded is not None:
        canvas.fill(frame.box(explanation.roi), LOST_CORNERS)
        canvas.fill(frame.box(explanation.roi.cut(explanation.rounded)), LOST_BINS)
    for row, column in shown:
        here = explanation.bin(row, column)
        if explanation.rounded is not None:
            canvas.fill(frame.box(here), GAINED)
        canvas.fill(frame.box(here.cut(explanation.roi) if explanation.rounded else here), _colors(row, column)[0])
    _draw_cells(canvas, values, frame, legible=explanation.samples is None)
    for row, column in shown:
        # Bins may share cells, so their lines are drawn a little inside, at two distances.
        inset = 1.5 + 2.5 * ((row + column) % 2) if explanation.rounded else 0
        canvas.outline(
            frame.box(explanation.bin(row, column), inset), _colors(row, column)[1], 2 if explanation.rounded else 1
        )
    canvas.dashed(_visible(frame, explanation.roi), ROI, 2)
    for row, column in shown:
        if (row, column) in explanation.cells:
            y, x = explanation.cells[row, column]
            canvas.circle(frame.at(x + 0.5, y + 0.5), frame.cell * 0.36, _colors(row, column)[1], 2.5)
        _draw_samples(canvas, explanation, row, column, frame)


def _draw_cells(canvas: Canvas, values: Tensor, frame: Frame, *, legible: bool) -> None:
    """Draw lines between cells, the values of the cells, and the numbers of rows and columns at the edges."""
    height, width = values.shape
    window = frame.window.cut(Rect(0, 0, width, height))
    for x in range(int(window.left), int(window.right) + 1):
        canvas.line(frame.at(x, window.top), frame.at(x, window.bottom), LINES)
    for y in range(int(window.top), int(window.bottom) + 1):
        canvas.line(frame.at(window.left, y), frame.at(window.right, y), LINES)
    texts = number_texts(values)
    ink = INK if legible else FAINT  # samples are drawn over the values
    longest = max(texts, key=len)
    size = min(16.0, 16.0 * (frame.cell - 4) / text_width(longest, 16))
    for y in range(int(window.top), int(window.bottom)):
        for x in range(int(window.left), int(window.right)):
            if size >= 7:
                canvas.text(frame.at(x + 0.5, y + 0.5), texts[y * width + x], size, ink, "mm")
    if frame.cell >= 22:
        for x in range(int(window.left), int(window.right)):
            place = frame.at(x + 0.5, frame.window.top)
            canvas.text((place[0], place[1] - 3), str(x), 13, FAINT, "md")
        for y in range(int(window.top), int(window.bottom)):
            place = frame.at(frame.window.left, y + 0.5)
            canvas.text((place[0] - 4, place[1]), str(y), 13, FAINT, "rm")


def _draw_samples(canvas: Canvas, explanation: Explanation, row: int, column: int, frame: Frame) -> None:
    if explanation.samples is None:
        return
    color = _colors(row, column)[1]
    ys, xs = explanation.samples.y[row].tolist(), explanation.samples.x[column].tolist()
    winner = None if explanation.samples.winners is None else int(explanation.samples.winners[row, column])
    labelled = row == column == 0 and 1 < len(ys) * len(xs) <= LABELLED_SAMPLES
    for number, (y, x) in enumerate((y, x) for y in ys for x in xs):
        if not (frame.window.left <= x <= frame.window.right and frame.window.top <= y <= frame.window.bottom):
            continue
        place = frame.at(x, y)
        canvas.dot(place, 7 if number == winner else 4.5, color, INK if number == winner else PAPER)
        if labelled:
            canvas.text((place[0] + 8, place[1] - 5), f"S{number + 1}", 14, INK, "lb")


def _draw_pooled(canvas: Canvas, explanation: Explanation, left: float, top: float, side: float) -> None:
    canvas.text((left, top - 10), _heading(explanation), 15, INK, "ld")
    texts = number_texts(explanation.pooled, 4)
    size = min(20.0, 20.0 * (side - 10) / text_width(max(texts, key=len), 20))
    rows, columns = explanation.pooled.shape
    for row in range(rows):
        for column in range(columns):
            x, y = left + column * side, top + row * side
            tint, line = _colors(row, column)
            canvas.fill((x, y, x + side - 4, y + side - 4), tint)
            canvas.outline((x, y, x + side - 4, y + side - 4), line, 2)
            place = (x + side / 2 - 2, y + side / 2 - 2)
            canvas.text(place, texts[row * columns + column], size, INK, "mm")
    if explanation.vote is not None:
        canvas.text((left, top + rows * side + 16), _vote(explanation), 17, ROI, "lm")


def _vote(explanation: Explanation) -> str:
    return f"vote = mean = {explanation.vote:.6g}"


def _heading(explanation: Explanation) -> str:
    rows, columns = explanation.pooled.shape
    maxima = bool(explanation.cells) or (explanation.samples is not None and explanation.samples.winners is not None)
    kind = (
        "largest of each bin"
        if maxima
        else "one sample per bin"
        if explanation.op == "roi_warp"
        else "mean of each bin"
    )
    return f"pooled {rows} x {columns}: {kind}"


def _legend(explanation: Explanation, show_gradient: bool) -> list[tuple[Color | str, str]]:
    """The marks of the legend with their meaning; areas are in cells."""
    entries: list[tuple[Color | str, str]] = [("roi", "RoI, scaled to cells")]
    if explanation.rounded is not None:
        areas = explanation.areas()
        if len(explanation.maps) == 1:
            lost = areas["lost by rounding corners"], areas["lost by rounding bins"]
            entries.append((LOST_CORNERS, f"lost with the corners: {lost[0]:.2f} cells"))
            entries.append((LOST_BINS, f"lost with the bins: {lost[1]:.2f} cells"))
        entries.append((GAINED, f"gained outside the RoI: {areas['gained']:.2f} cells"))
        entries.append(("bin", "a bin and its cells"))
    else:
        entries.append(("bin", "a bin"))
        entries.append(("sample", "bilinear sample"))
    if explanation.samples is not None and explanation.samples.winners is not None:
        entries.append(("winner", "the largest sample of a bin"))
    if explanation.cells:
        entries.append(("circle", "the largest cell of a bin"))
    if _window(explanation).cut(Rect(0, 0, explanation.maps.shape[2], explanation.maps.shape[1])) != _window(
        explanation
    ):
        entries.append((OUTSIDE, "outside the map"))
    if show_gradient:
        entries.append(("text", "gradient of the sum of all outputs"))
    return entries


def _draw_mark(canvas: Canvas, mark: Color | str, x: float, y: float) -> None:
    middle = (x + 10, y + 9)
    match mark:
        case "roi":
            canvas.dashed((x, y, x + 20, y + 18), ROI, 2, 4)
        case "bin":
            canvas.fill((x, y, x + 20, y + 18), BINS[0][0])
            canvas.outline((x, y, x + 20, y + 18), BINS[0][1], 2)
        case "sample":
            canvas.dot(middle, 4.5, BINS[0][1], PAPER)
        case "winner":
            canvas.dot(middle, 7, BINS[0][1], INK)
        case "circle":
            canvas.circle(middle, 9, BINS[0][1], 2.5)
        case "text":
            canvas.text(middle, "0.5", 13, INK, "mm")
        case (int(), int(), int()):
            canvas.fill((x, y, x + 20, y + 18), mark)
            canvas.outline((x, y, x + 20, y + 18), LINES, 1)


def _entry_width(text: str) -> float:
    return 28 + text_width(text, LEGEND)


def _lines(title: str, width: float) -> list[str]:
    """Break the title at its commas into lines of at most `width` pixels."""
    lines: list[str] = []
    for part in title.split(", "):
        longer = f"{lines[-1]}, {part}" if lines else part
        if lines and text_width(longer, 19) <= width:
            lines[-1] = longer
        else:
            lines[-1:] = [f"{lines[-1]},", part] if lines else [part]
    return lines


def _visible(frame: Frame, rect: Rect) -> Box:
    """Pixels of a rectangle, with its corners clamped to the window."""
    window = frame.window
    xs = sorted(min(max(value, window.left), window.right) for value in (rect.left, rect.right))
    ys = sorted(min(max(value, window.top), window.bottom) for value in (rect.top, rect.bottom))
    return (*frame.at(xs[0], ys[0]), *frame.at(xs[1], ys[1]))


def _colors(row: int, column: int) -> tuple[Color, Color]:
    return BINS[row % 2 * 2 + column % 2]


def number_texts(values: Tensor, decimals: int = 2) -> list[str]:
    """The numbers of a tensor, flattened, as text: whole, with 5 digits if a value is >= 10, or with `decimals`."""
    flat = values.flatten().tolist()
    if all(value == round(value) for value in flat if math.isfinite(value)):
        return [f"{value:.0f}" for value in flat]
    if max((abs(value) for value in flat if math.isfinite(value)), default=0) >= 10:
        return [f"{value:.5g}" for value in flat]
    return [f"{value:.{decimals}f}" for value in flat]
