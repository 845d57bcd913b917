"""Settings that hold a path: the schema marks them, and the rest of the word is taken as text.

`dataset.root=My photos (2024), #1` needs no quotes for Hydra, and `~` stands for the home folder. A value that is
quoted for Hydra stays accepted, `null` stays null, and `${...}` stays an interpolation.
"""

from __future__ import annotations

import re
from dataclasses import field
from os.path import exists, expanduser
from typing import Any

from detector.configs.missing import MISSING

MARK = {"holds": "path"}
ONE_EACH = ("output_dir", "resume")  # a sweep has one of each, never a list
CHOICES = re.compile(r"(choice|glob|range|interval|shuffle|sort|tag)\(.*\)$", re.DOTALL)  # Hydra's functions for sweeps
QUOTED = re.compile(r"""(['"])((?:(?!\1)[^\\]|\\.)*)\1$""", re.DOTALL)  # one string, not a list of several


def path_setting(default: Any = MISSING) -> Any:
    """A field of the schema that holds the path of a file or folder, or text that may be one."""
    return field(default=default, metadata=MARK)


def plain_text(value: str) -> str:
    """The text that the value of a path's setting stands for: Hydra's quotes removed, `~` expanded.

    The name of something that exists stands for itself.
    """
    if exists(value):
        return value
    found = QUOTED.match(value)
    if found:
        value = _unescaped(found[2], found[1])
    return value if exists(value) else expanduser(value)


def hydra_value(key: str, value: str, *, sweeping: bool = False) -> str:
    """The value of a path's setting as Hydra has to be given it.

    In a sweep a comma separates paths, unless the whole names something that exists.
    """
    if value.lower() in ("", "null"):
        return value
    if sweeping and key not in ONE_EACH and not exists(expanduser(value)):
        if CHOICES.match(value) or value[0] in "'\"":
            return value
        return ",".join(hydra_value(key, part) for part in value.split(","))
    return quoted(plain_text(value))


def quoted(text: str) -> str:
    """The text in Hydra's quotes: a backslash counts only in front of a quote."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"


def _unescaped(body: str, quote: str) -> str:
    halved = re.sub(rf"(\\+){quote}", lambda found: found[1][: len(found[1]) // 2] + quote, body)
    return re.sub(r"(\\+)$", lambda found: found[1][: len(found[1]) // 2], halved)
