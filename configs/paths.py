"""Settings that hold a path. The schema marks them; everything after the = is the path.

`dataset.root=My photos (2024), #1` needs no quotes for Hydra, and `~` is the home folder. A value that is already
quoted for Hydra is accepted too. `null` stays null, and `${...}` stays an interpolation.

A list of paths is written in brackets, `[one, two (2024)]`. One path needs no brackets.
"""

from __future__ import annotations

import re
from dataclasses import field
from os.path import exists, expanduser
from typing import Any

from detector.configs.missing import MISSING

MARK = {"holds": "path"}  # metadata of the schema's path fields
LIST_MARK = {"holds": "paths"}  # metadata of the fields that hold a list of paths
NOT_SWEPT = ("output_dir", "resume")  # a sweep has one value for each of these, never a list
CHOICES = re.compile(r"(choice|glob|range|interval|shuffle|sort|tag)\(.*\)$", re.DOTALL)  # Hydra's functions for sweeps
QUOTED = re.compile(r"""(['"])((?:(?!\1)[^\\]|\\.)*)\1$""", re.DOTALL)  # one string, not a list of several
END = r"(?=\s*(?:,|$))"
ITEM = rf"""(['"])(?:(?!\2)[^\\]|\\.)*\2{END}|[^,]*"""
PATHS = re.compile(rf"\s*({ITEM})\s*(?:,|$)", re.DOTALL)  # the paths in the brackets of a list
LISTS = re.compile(rf"\s*(\[.*?\]{END}|{ITEM})\s*(?:,|$)", re.DOTALL)  # of a sweep: lists or paths


def path_setting(default: Any = MISSING) -> Any:
    """Return a schema field for the path of a file or folder, or for text that may be a path."""
    return field(default=default, metadata=MARK)


def plain_text(value: str) -> str:
    """Return the path in the value of a path setting, without Hydra's quotes and with `~` expanded.

    The path of an existing file or folder is returned unchanged.
    """
    if exists(value):
        return value
    found = QUOTED.match(value)
    if found:
        value = _unescaped(found[2], found[1])
    return value if exists(value) else expanduser(value)


def hydra_value(key: str, value: str, *, sweeping: bool = False) -> str:
    """Return the value of a path setting in Hydra's syntax.

    In a sweep, a comma separates paths, unless the whole value is the path of an existing file or folder.
    """
    if value.lower() in ("", "null"):
        return value
    if sweeping and key not in NOT_SWEPT and not exists(expanduser(value)):
        if CHOICES.match(value) or value[0] in "'\"":
            return value
        return ",".join(hydra_value(key, part) for part in value.split(","))
    return quoted(plain_text(value))


def hydra_list(value: str, *, sweeping: bool = False) -> str:
    """Return the value of a list of paths in Hydra's syntax. A value without brackets is one path.

    In a sweep, a comma outside brackets separates lists, unless the whole value is the path of an existing file or
    folder.
    """
    if value.lower() in ("", "null"):
        return value
    if exists(expanduser(value)):
        return f"[{quoted(plain_text(value))}]"
    if sweeping:
        return value if CHOICES.match(value) else ",".join(map(hydra_list, _items(LISTS, value)))
    if value.startswith("[") and value.endswith("]"):
        return f"[{','.join(quoted(plain_text(item)) for item in _items(PATHS, value[1:-1]))}]"
    return f"[{quoted(plain_text(value))}]"


def _items(kind: re.Pattern[str], text: str) -> list[str]:
    return [found[1].strip() for found in kind.finditer(text) if found[1].strip()]


def quoted(text: str) -> str:
    """Return the text in Hydra's quotes. Only backslashes before a quote are escaped."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"


def _unescaped(body: str, quote: str) -> str:
    halved = re.sub(rf"(\\+){quote}", lambda found: found[1][: len(found[1]) // 2] + quote, body)
    return re.sub(r"(\\+)$", lambda found: found[1][: len(found[1]) // 2], halved)
