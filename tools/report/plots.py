"""The plots of `analyze` and `inspect` as inline SVG text: no library, no script, sharp at any size.

Colors and fonts come from the page's style sheet through class names. Every public function returns one <svg> element.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from detector.metrics.tables import FloatArray, IntArray

SIDE = 190  # of a square plot's inner area, in CSS pixels
LEFT, BOTTOM, TOP, RIGHT = 34, 24, 8, 8


def bars(rows: Sequence[tuple[str, float, str]], *, width: int = 560, kind: str = "bar") -> str:
    """Draw horizontal bars of (name, value >= 0, text beside the bar). The longest bar has the full width."""
    height, label, room = 22, 130, 150
    longest = max((value for _, value, _ in rows), default=0.0) or 1.0
    parts = []
    for index, (name, value, text) in enumerate(rows):
        y, length = index * height, (width - label - room) * max(value, 0.0) / longest
        parts.append(
            f'<text class="label" x="{label - 8}" y="{y + 15}" text-anchor="end">{escape(name)}</text>'
            f'<rect class="{kind}" x="{label}" y="{y + 4}" width="{max(length, 1):.1f}" height="{height - 8}" rx="2"/>'
            f'<text class="value" x="{label + max(length, 1) + 6:.1f}" y="{y + 15}">{escape(text)}</text>'
        )
    return _svg(width, max(1, len(rows)) * height, parts)


def stacked_bars(rows: Sequence[tuple[str, Sequence[int]]], kinds: Sequence[str], *, width: int = 560) -> str:
    """Draw one bar for each name, divided by its counts. `kinds` are the names and CSS classes of the parts."""
    height, label = 22, 130
    parts = []
    for index, (name, counts) in enumerate(rows):
        y, x, total = index * height, float(label), sum(counts) or 1
        parts.append(f'<text class="label" x="{label - 8}" y="{y + 15}" text-anchor="end">{escape(name)}</text>')
        for kind, count in zip(kinds, counts, strict=True):
            length = (width - label) * count / total
            if count:
                tip = f"{name}: {kind} {count} of {total}"
                parts.append(
                    f'<rect class="{kind}" x="{x:.1f}" y="{y + 4}" width="{length:.1f}" height="{height - 8}">'
                    f"<title>{escape(tip)}</title></rect>"
                )
            x += length
    return _svg(width, max(1, len(rows)) * height, parts)


def precision_recall(recall: FloatArray, precision: FloatArray, num_points: int = 160) -> str:
    """Draw the precision-recall curve [D] of one class, and shade the area under its monotone envelope, which is AP."""
    parts = _square_axes("recall", "precision")
    if len(recall) and recall[-1] > 0:
        keep = np.unique(np.searchsorted(recall, np.linspace(recall[0], recall[-1], num_points)))
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        raw = [_place(x, y) for x, y in zip(recall[keep], precision[keep], strict=True)]
        best = [_place(x, y) for x, y in zip(recall[keep], envelope[keep], strict=True)]
        outline = [_place(0, 0), _place(0, float(envelope[0])), *best, _place(float(recall[-1]), 0)]
        parts.append(f'<polygon class="area" points="{" ".join(outline)}"/>')
        parts.append(f'<polyline class="curve" points="{" ".join(raw)}"/>')
    return _square(parts)


def lines(curves: dict[str, list[tuple[int, float]]], *, width: int = 520, height: int = 240) -> str:
    """Draw curves of (step, value) over one axis from 0, each with another color, and a legend."""
    left, bottom, top = 60, 22, 22
    points = [point for curve in curves.values() for point in curve]
    last = max((step for step, _ in points), default=1)
    # Cut off the highest 1 %: the high loss at the start would flatten the rest.
    values = sorted(value for _, value in points if np.isfinite(value))
    highest = (values[int(0.99 * (len(values) - 1))] if values else 1.0) or 1.0
    parts = [f'<rect class="frame" x="{left}" y="{top}" width="{width - left}" height="{height - top - bottom}"/>']
    for share in (0.0, 0.5, 1.0):
        x, y = left + share * (width - left), top + (1 - share) * (height - top - bottom)
        anchor = {0.0: "start", 0.5: "middle", 1.0: "end"}[share]
        parts.append(f'<line class="grid" x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{left - 5}" y="{y + 4:.1f}" text-anchor="end">{share * highest:.3g}</text>'
            f'<text class="tick" x="{x:.1f}" y="{height - 6}" text-anchor="{anchor}">{share * last:.0f}</text>'
        )
    place = float(left)
    for number, (name, curve) in enumerate(curves.items()):
        segments: list[list[str]] = [[]]  # a value that is not finite ends one
        for step, value in curve:
            if not np.isfinite(value):
                segments.append([])
                continue
            x = left + (width - left) * step / last
            y = top + (height - top - bottom) * (1 - min(1.0, max(0.0, value / highest)))
            segments[-1].append(f"{x:.1f},{y:.1f}")
        parts += [
            f'<polyline class="line line{number % 6}" points="{" ".join(segment)}"/>' for segment in segments if segment
        ]
        if len(curve) <= 12:
            parts += [
                f'<circle class="dot line{number % 6}" cx="{point.split(",")[0]}" cy="{point.split(",")[1]}" r="3"/>'
                for segment in segments
                for point in segment
            ]
        parts.append(
            f'<rect class="dot line{number % 6}" x="{place:.0f}" y="5" width="10" height="10" rx="2"/>'
            f'<text class="tick" x="{place + 14:.0f}" y="14">{escape(name)}</text>'
        )
        place += 30 + 6.4 * len(name)
    return _svg(max(width, place), height, parts)


def reliability(edges: FloatArray, count: IntArray, score: FloatArray, precision: FloatArray) -> str:
    """Draw the precision in each score bin, and the diagonal, on which a score is a probability."""
    parts = _square_axes("score", "precision")
    for low, high, number, mean, correct in zip(edges[:-1], edges[1:], count, score, precision, strict=True):
        if number:
            tip = f"{number} detections with mean score {mean:.3f}: {100 * correct:.1f} % correct"
            parts.append(
                f'<rect class="bar" x="{LEFT + SIDE * low + 1:.1f}" y="{TOP + SIDE * (1 - correct):.1f}" '
                f'width="{SIDE * (high - low) - 2:.1f}" height="{SIDE * correct:.1f}"><title>{tip}</title></rect>'
            )
    (start, end) = (_place(0, 0).split(","), _place(1, 1).split(","))
    parts.append(f'<line class="ideal" x1="{start[0]}" y1="{start[1]}" x2="{end[0]}" y2="{end[1]}"/>')
    return _square(parts)


def heat_map(counts: IntArray, names: Sequence[str]) -> str:
    """Draw counts [K, K]: rows are true classes, columns predicted classes. Shades show the share of the row."""
    cell = 30 if len(names) <= 24 else 12
    margin = 8 + 7 * max(len(name) for name in names)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    parts = []
    for row, name in enumerate(names):
        middle = margin + row * cell + cell / 2
        text = escape(name)
        parts.append(f'<text class="label" x="{margin - 6}" y="{middle + 4:.1f}" text-anchor="end">{text}</text>')
        parts.append(
            f'<text class="label" transform="translate({middle + 4:.1f},{margin - 6}) rotate(-60)">{text}</text>'
        )
        for column, other in enumerate(names):
            number, share = int(counts[row, column]), float(shares[row, column])
            x, y = margin + column * cell, margin + row * cell
            kind = "agree" if row == column else "differ"
            tip = escape(f"{name} detected as {other}: {number} ({100 * share:.1f} % of the row)")
            opacity = 0.0 if number == 0 else 0.12 + 0.88 * share
            parts.append(
                f'<g><rect class="grid" x="{x}" y="{y}" width="{cell}" height="{cell}"/><rect class="{kind}" x="{x}" '
                f'y="{y}" width="{cell}" height="{cell}" fill-opacity="{opacity:.2f}"/><title>{tip}</title>'
            )
            if number and cell >= 30:
                strong = " strong" if share > 0.45 else ""
                parts.append(
                    f'<text class="count{strong}" x="{x + cell / 2}" y="{y + cell / 2 + 3.5}" text-anchor="middle">'
                    f"{_short(number)}</text>"
                )
            parts.append("</g>")
    extent = margin + len(names) * cell
    return _svg(extent + 40, extent + 4, parts)


def _short(number: int) -> str:
    return str(number) if number < 10_000 else f"{number / 1000:.0f}k"


def _place(x: float, y: float) -> str:
    """Return the SVG coordinates of the point (x, y) of the unit square."""
    return f"{LEFT + SIDE * x:.1f},{TOP + SIDE * (1 - y):.1f}"


def _square_axes(across: str, up: str) -> list[str]:
    parts = [f'<rect class="frame" x="{LEFT}" y="{TOP}" width="{SIDE}" height="{SIDE}"/>']
    for tick in (0.0, 0.5, 1.0):
        x, y = _place(tick, tick).split(",")
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{TOP + SIDE}"/>')
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{LEFT + SIDE}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{TOP + SIDE + 13}" text-anchor="middle">{tick:g}</text>')
        parts.append(f'<text class="tick" x="{LEFT - 4}" y="{float(y) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    middle = TOP + SIDE / 2
    parts.append(
        f'<text class="tick" x="{LEFT + 0.75 * SIDE}" y="{TOP + SIDE + 13}" text-anchor="middle">{across}</text>'
    )
    parts.append(
        f'<text class="tick" transform="translate({LEFT - 8},{middle / 1.6}) rotate(-90)" '
        f'text-anchor="middle">{up}</text>'
    )
    return parts


def _square(parts: Sequence[str]) -> str:
    return _svg(LEFT + SIDE + RIGHT, TOP + SIDE + BOTTOM, parts)


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    return f'<svg {size} xmlns="http://www.w3.org/2000/svg" role="img">{"".join(parts)}</svg>'
