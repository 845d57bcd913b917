"""Reads XML files in any encoding that Python knows. Removes the namespaces of the elements."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from detector.datasets.tar_shards import File
from detector.datasets.text_files import decoded

DECLARATION = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["'][^>]*\?>""")


def read_xml(path: File) -> ET.Element:
    """Return the root element. Raises ValueError naming the file if it is missing or not XML."""
    try:
        content = path.read_bytes()
        try:
            root = ET.fromstring(content)
        except (ET.ParseError, ValueError, LookupError):  # expat knows few encodings; or the declaration is wrong
            root = ET.fromstring(_without_declaration(content))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such annotation; write one, without objects if the image has none") from error
    except (ET.ParseError, OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as XML ({error}); restore the file") from error
    for element in root.iter():
        if isinstance(element.tag, str) and element.tag.startswith("{"):
            element.tag = element.tag.rpartition("}")[2]
    return root


def _without_declaration(content: bytes) -> str:
    declared = DECLARATION.match(content)
    if declared is None:
        return re.sub(r"^\s*<\?xml[^>]*\?>", "", decoded(content))
    try:
        return content[declared.end() :].decode(declared[1].decode())
    except (UnicodeError, LookupError):
        return re.sub(r"^\s*<\?xml[^>]*\?>", "", decoded(content))
