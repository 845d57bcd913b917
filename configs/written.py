"""A value of a setting as text, in the form that it has on a command line."""

from __future__ import annotations

import re
from enum import Enum
from typing import Any

from detector.configs.paths import quoted

NAME = re.compile(r"(?!(null|true|false|nan|inf)$)[a-z_][\w./-]*$", re.ASCII | re.IGNORECASE)  # needs no quotes
ESCAPED = re.compile(r"[\\()\[\]{}:=,\s]")  # in the key of a table, which cannot have quotes


def written(value: Any) -> str:
    """Return the text after `key=`: null, true, a name, a number, [a,b] or {key:value}."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_inside, value))}]"
    if isinstance(value, dict):
        pairs = (f"{ESCAPED.sub(_escape, str(key))}:{_inside(item)}" for key, item in value.items())
        return "{" + ",".join(pairs) + "}"
    return str(value)


def _inside(value: Any) -> str:
    """Return a value in a list or table. Text that is not a simple name has quotes."""
    return quoted(value) if isinstance(value, str) and not NAME.match(value) else written(value)


def _escape(found: re.Match[str]) -> str:
    return f"\\{found[0]}"
