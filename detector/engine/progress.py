"""Progress bars: how often they are drawn."""

from __future__ import annotations

import sys


def is_watched() -> bool:
    """Return True if someone sees the bars move: on a terminal or in a notebook, but not in a log file."""
    return sys.stderr.isatty() or sys.modules.get("ipykernel") is not None  # a notebook's stderr is no terminal
