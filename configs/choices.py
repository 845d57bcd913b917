"""The choices of a group: the names of the YAML files in its folder."""

from __future__ import annotations

from pathlib import Path

CONFIG_FOLDER = Path(__file__).parent


def choices(group: str) -> list[str]:
    """Return every NAME that `group=NAME` accepts."""
    return sorted(path.stem for path in (CONFIG_FOLDER / group).glob("*.yaml"))
