"""Make a page and a notebook from the script of a tutorial.

Scripts have cells: `# %% [markdown]` begins text, in comments, and `# %%` begins code. Editors can run single cells.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

MARK = re.compile(r"^# %%( \[markdown\])?\n", re.MULTILINE)


class Cell(NamedTuple):
    """A cell of a script: code, or text."""

    is_code: bool
    text: str


def cells(script: str) -> list[Cell]:
    """Return the cells of a script. Raises ValueError for a line of text that is not a comment."""
    marks = list(MARK.finditer(script))
    ends = [*(mark.start() for mark in marks[1:]), len(script)]
    found = []
    for mark, end in zip(marks, ends, strict=True):
        body = script[mark.end() : end].strip("\n")
        if mark[1] is None:
            found.append(Cell(True, body))
            continue
        lines = body.splitlines()
        wrong = [line for line in lines if not line.startswith("#")]
        if wrong:
            raise ValueError(f"expected comments in a markdown cell, got {wrong[0]!r}; begin the line with #")
        found.append(Cell(False, "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines)))
    return found


def as_page(script: str) -> str:
    """Return the script in Markdown."""
    return "\n\n".join(f"```python\n{cell.text}\n```" if cell.is_code else cell.text for cell in cells(script)) + "\n"


def as_notebook(script: str) -> str:
    """Return the script as a Jupyter notebook (nbformat 4.5), without outputs."""
    notebook_cells = []
    for number, cell in enumerate(cells(script)):
        common = {"id": f"cell-{number}", "metadata": {}, "source": cell.text.splitlines(keepends=True)}
        code: dict[str, Any] = {"cell_type": "code", "execution_count": None, "outputs": []}
        notebook_cells.append({**(code if cell.is_code else {"cell_type": "markdown"}), **common})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book = {"cells": notebook_cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(book, indent=1, ensure_ascii=False) + "\n"


def write_notebooks(folder: Path) -> None:
    """Write the notebook of each script into the same folder."""
    for path in sorted(folder.glob("*.py")):
        path.with_suffix(".ipynb").write_text(as_notebook(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write_notebooks(Path(__file__).resolve().parents[2] / "docs" / "tutorials")
