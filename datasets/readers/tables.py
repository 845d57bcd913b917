"""Reads CSV files as column names and rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import NamedTuple

from detector.datasets.tar_shards import File
from detector.datasets.text_files import decoded, read_text

DELIMITERS = ",;\t|"


class Table(NamedTuple):
    """A table with its header."""

    columns: list[str]  # as written; empty if the table has no header
    rows: Iterator[tuple[int, list[str]]]  # line number, cells
    delimiter: str


def columns_of(head: bytes) -> list[str]:
    """Return the cells of the first line of a file, from its first bytes."""
    return next(iter(first_lines(head)), [])


def first_lines(head: bytes, count: int = 1) -> list[list[str]]:
    """Return the cells of the first lines of a file, from its first bytes."""
    try:
        lines = decoded(head).splitlines()[:count]
    except UnicodeError:
        return []
    return [next(csv.reader([line], delimiter=_delimiter(line)), []) for line in lines]


def read_table(path: File, *, has_head: bool = True) -> Table:
    """Return the table of a file. Raises ValueError naming the file if it cannot be read or is empty."""
    content = read_text(path)
    line = next(iter(content.splitlines()), "")
    delimiter = _delimiter(line)
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter)  # accepts all line endings
    columns = [cell.strip() for cell in _next(reader, path)] if has_head else []
    if has_head and not columns:
        raise ValueError(f"{path}: the table is empty; expected a line of column names, then one object per line")

    def rows() -> Iterator[tuple[int, list[str]]]:
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, [cell.strip() for cell in cells]
        except csv.Error as error:
            raise ValueError(f"{path}: line {reader.line_num} cannot be read ({error}); restore the file") from error

    return Table(columns, rows(), delimiter)


def _next(reader: Iterator[list[str]], path: File) -> list[str]:
    try:
        return next(reader, [])
    except csv.Error as error:
        raise ValueError(f"{path}: line 1 cannot be read ({error}); restore the file") from error


def _delimiter(line: str) -> str:
    return max(DELIMITERS, key=line.count)
