"""Parts of the HTML pages: the page itself, tiles, tables, keys. Plain HTML and CSS, self-contained, no script."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np

from detector.tools.report.style import STYLE


def page(title: str, summary: str, sections: Mapping[str, str]) -> str:
    """Return a whole page. `title` is text; `summary` and the content of each section, by its name, are HTML."""
    links = "".join(f'<a href="#s{number}">{name}</a>' for number, name in enumerate(sections))
    body = "".join(
        f'<section id="s{number}"><h2>{name}</h2>{content}</section>'
        for number, (name, content) in enumerate(sections.items())
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main><h1>{escape(title)}</h1>"
        f"{summary}<nav>{links}</nav>{body}</main></body></html>\n"
    )


def tiles(values: Iterable[tuple[str, str]]) -> str:
    """Return large values, each with its meaning below. Both are HTML."""
    shown = "".join(f'<div class="tile"><b>{value}</b><span>{name}</span></div>' for value, name in values)
    return f'<div class="tiles">{shown}</div>'


def decimal(value: float | None) -> str:
    """Return a value with four decimals; "none" for None and NaN."""
    return "none" if value is None or np.isnan(value) else f"{value:.4f}"


def key(names: Sequence[str]) -> str:
    """Return the names of colours, each beside its colour."""
    return '<span class="key">' + "".join(f'<i class="{name}"></i>{name}' for name in names) + "</span>"


def table(heads: list[str], rows: list[list[str]], *, total: bool = False, text_column: int | None = None) -> str:
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
