"""Reads text in the encodings that tools and editors on all systems write."""

from __future__ import annotations

import codecs

from detector.datasets.tar_shards import File

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: File) -> str:
    """Return the text of a file: UTF-8, or UTF-16 or UTF-32 if a mark or zero bytes show it, else Windows' Latin-1.

    Raises ValueError naming the file if it cannot be read.
    """
    try:
        return decoded(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except (OSError, UnicodeError) as error:
        raise ValueError(f"{path}: not readable as text ({error}); save it as UTF-8") from error


def decoded(content: bytes) -> str:
    """Return the text of bytes. Raises UnicodeError if the bytes do not match the encoding of their byte order mark."""
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
    """Return True if a byte is undefined in Windows' code page 1252."""
    return any(byte in content for byte in (b"\x81", b"\x8d", b"\x8f", b"\x90", b"\x9d"))
