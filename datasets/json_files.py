"""JSON files, and values of them that must be of one kind: each fault names the file and what was expected."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from detector.datasets.text_files import decoded


def read_json(path: Path) -> Any:
    """The content of a file. Raises ValueError naming it if it is missing or no JSON."""
    try:
        return json.loads(decoded(path.read_bytes()))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such annotation file; restore it, or correct the path") from error
    except RecursionError as error:
        raise ValueError(f"{path}: not readable as JSON (brackets nested too deeply); restore the file") from error
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error}); restore the file") from error


def rows(content: Any, key: str, path: Path) -> list[dict[str, Any]]:
    """The list of objects under a key. Raises ValueError if there is none."""
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        what = f"{key!r} is {type(found).__name__}" if isinstance(content, dict) else f"it is {type(content).__name__}"
        raise ValueError(
            f"{path}: expected an object with a list of objects under {key!r}, but {what}; correct the file"
        )
    return found


def numbers(value: Any, count: int, what: str) -> tuple[float, ...]:
    """A list of so many numbers; they may be infinite or NaN. Raises ValueError that begins with `what`."""
    if isinstance(value, list | tuple) and len(value) == count:
        found = [number(item) for item in value]
        if None not in found:
            return tuple(item for item in found if item is not None)
    raise ValueError(f"{what} is {_short(value)}; expected {count} numbers")


def number(value: Any) -> float | None:
    """A JSON number as a float; None for anything else, true and false too."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def whole(value: Any, what: str) -> int:
    """A whole number above 0, maybe written as text. Raises ValueError that begins with `what`."""
    try:
        found = float(value) if isinstance(value, str) else number(value)
    except ValueError:
        found = None
    if found is None or not 1 <= found <= 1 << 24 or found != int(found):
        raise ValueError(f"{what} is {_short(value)}; expected a whole number of pixels")
    return int(found)


def text(value: Any, what: str) -> str:
    """Text that is not empty. Raises ValueError that begins with `what`."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{what} is {_short(value)}; expected text")
    return value


def identity(value: Any, what: str) -> str:
    """An id, number or text, as text: 7 and "7" are the same. Raises ValueError that begins with `what`."""
    if isinstance(value, str) and value.strip():
        return value.strip()
    found = number(value)
    if found is None or not math.isfinite(found) or found != int(found):
        raise ValueError(f"{what} is {_short(value)}; expected a whole number or text")
    return str(int(value))


def in_order(identities: list[str]) -> list[str]:
    """Ids from the smallest: numbers by their value, before other text."""
    return sorted(identities, key=lambda item: (0, int(item), "") if _is_whole(item) else (1, 0, item))


def _is_whole(item: str) -> bool:
    return item.lstrip("-").isdecimal() and len(item) < 40


def _short(value: Any) -> str:
    told = repr(value)
    return told if len(told) < 60 else f"{told[:57]}..."
