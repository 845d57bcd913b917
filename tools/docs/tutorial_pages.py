"""A tutorial's script as a page and as a notebook; the script is the one source.

Scripts have cells: `# %% [markdown]` begins text, in comments, and `# %%` begins code. Editors run them cell by cell.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

MARK = re.compile(r"^# %%( \[markdown\])?\n", re.MULTILINE)


class Cell(NamedTuple):
    is_code: bool
    text: str


def cells(script: str) -> list[Cell]:
    """The cells of a script. Raises ValueError for a line of text that is no comment."""
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
            raise ValueError(f"expected comments in a cell of text, got {wrong[0]!r}")
        found.append(Cell(False, "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines)))
    return found


def as_page(script: str) -> str:
    """The script in Markdown."""
    return "\n\n".join(f"```python\n{cell.text}\n```" if cell.is_code else cell.text for cell in cells(script)) + "\n"


def as_notebook(script: str) -> str:
    """The script as a Jupyter notebook (nbformat 4.5), without outputs."""
    made = []
    for number, cell in enumerate(cells(script)):
        common = {"id": f"cell-{number}", "metadata": {}, "source": cell.text.splitlines(keepends=True)}
        code: dict[str, Any] = {"cell_type": "code", "execution_count": None, "outputs": []}
        made.append({**(code if cell.is_code else {"cell_type": "markdown"}), **common})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book = {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(book, indent=1, ensure_ascii=False) + "\n"


def write_notebooks(folder: Path) -> None:
    """Writes each script's notebook beside it."""
    for path in sorted(folder.glob("*.py")):
        path.with_suffix(".ipynb").write_text(as_notebook(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write_notebooks(Path(__file__).parents[2] / "docs" / "tutorials")
