"""A value of a setting as text, in the form that it has on a command line."""

from __future__ import annotations

from enum import Enum
from typing import Any


def written(value: Any) -> str:
    """Return the text after `key=`: null, true, a name, a number, [a,b] or {key:value}."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, list | tuple):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{written(item)}" for key, item in value.items()) + "}"
    return str(value)
