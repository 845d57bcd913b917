"""The meaning of a setting: the comment on its line in the schema, read from the source."""

from __future__ import annotations

import inspect
import re


def meaning(owner: type, name: str) -> str | None:
    """Return the comment on the field `name` of a schema class, also of an inherited field. None if there is none.

    The comment is at the end of the field's line, or of its last line.
    """
    for kind in owner.__mro__[:-1]:
        source = inspect.getsource(kind)
        found = re.search(
            rf"^    {name}: [^#\n]*(?:\n {{8}}[^#\n]*)?(?:\n {{4}}\)[^#\n]*)?# (.+)$", source, re.MULTILINE
        )
        if found:
            return found[1]
    return None


def choice_meaning(enum: type, name: str) -> str | None:
    """Return the comment on a member of an enum of the schema. None if there is none."""
    found = re.search(rf"^    {name} = [^#\n]*# (.+)$", inspect.getsource(enum), re.MULTILINE)
    return found[1] if found else None
