"""Text as tools and editors on all systems write it, UTF-8 or not."""

from __future__ import annotations

import codecs
from pathlib import Path

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path) -> str:
    """A file's text: UTF-8, UTF-16 or UTF-32 as it says or looks, else Windows' Latin-1.

    Raises ValueError naming the file if it cannot be read.
    """
    try:
        return decoded(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except (OSError, UnicodeError) as error:
        raise ValueError(f"{path}: not readable as text ({error}); save it as UTF-8") from error


def decoded(content: bytes) -> str:
    """The text of bytes. Raises UnicodeError where a mark at the beginning promises what does not follow."""
    for mark, encoding in MARKS:
        if content.startswith(mark):
            return content.decode(encoding)
    if content[1:2] == b"\0":
        return content.decode("utf-16-le")
    if content[:1] == b"\0":
        return content.decode("utf-16-be")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="strict") if not _undefined(content) else content.decode("latin-1")


def _undefined(content: bytes) -> bool:
    """Whether bytes occur to which Windows' code page gives no letter."""
    return any(byte in content for byte in (b"\x81", b"\x8d", b"\x8f", b"\x90", b"\x9d"))
