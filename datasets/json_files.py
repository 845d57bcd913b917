"""Reads JSON files and checks the types of their values. Each error names the file and the expected value."""

from __future__ import annotations

import json
import math
from typing import Any

from detector.datasets.tar_shards import File
from detector.datasets.text_files import decoded


def read_json(path: File) -> Any:
    """Return the content of a file. Raises ValueError naming the file if it is missing or not JSON."""
    try:
        content = path.read_bytes()
        if not content.strip(b"\0 \t\r\n"):
            raise ValueError("the file is empty")
        return json.loads(decoded(content))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such annotation file; restore it, or correct the path") from error
    except RecursionError as error:
        raise ValueError(f"{path}: not readable as JSON (brackets nested too deeply); restore the file") from error
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error}); restore the file") from error


def rows(content: Any, key: str, path: File) -> list[dict[str, Any]]:
    """Return the list of objects under a key. Raises ValueError if there is none."""
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        what = f"{key!r} is {type(found).__name__}" if isinstance(content, dict) else f"it is {type(content).__name__}"
        raise ValueError(
            f"{path}: expected an object with a list of objects under {key!r}, but {what}; correct the file"
        )
    return found


def numbers(value: Any, count: int, what: str) -> tuple[float, ...]:
    """Return a list of `count` numbers, which may be infinite or NaN. Raises ValueError that starts with `what`."""
    if isinstance(value, list | tuple) and len(value) == count:
        found = [number(item) for item in value]
        if None not in found:
            return tuple(item for item in found if item is not None)
    raise ValueError(f"{what} is {_short(value)}; expected {count} numbers")


def number(value: Any) -> float | None:
    """Return a JSON number as a float; None for anything else, also for true and false."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def positive_int(value: Any, what: str) -> int:
    """Return a whole number above 0, given as number or text. Raises ValueError that starts with `what`."""
    try:
        found = float(value) if isinstance(value, str) else number(value)
    except ValueError:
        found = None
    if found is None or not 1 <= found <= 1 << 24 or found != int(found):
        raise ValueError(f"{what} is {_short(value)}; expected a whole number of pixels")
    return int(found)


def text(value: Any, what: str) -> str:
    """Return text that is not empty. Raises ValueError that starts with `what`."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{what} is {_short(value)}; expected text")
    return value


def id_text(value: Any, what: str) -> str:
    """Return an id (number or text) as text: 7 and "7" are equal. Raises ValueError that starts with `what`."""
    if isinstance(value, str) and value.strip():
        return value.strip()
    found = number(value)
    if found is None or not math.isfinite(found) or found != int(found):
        raise ValueError(f"{what} is {_short(value)}; expected a whole number or text")
    return str(int(value))


def sorted_ids(identities: list[str]) -> list[str]:
    """Return the ids in order: numbers by their value, then other text."""
    return sorted(identities, key=lambda item: (0, int(item), "") if _is_whole(item) else (1, 0, item))


def _is_whole(item: str) -> bool:
    return item.lstrip("-").isdecimal() and len(item) < 40


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) < 60 else f"{shown[:57]}..."
