"""The names that a group takes: the YAML files of its folder."""

from __future__ import annotations

from pathlib import Path

CONFIG_FOLDER = Path(__file__).parent


def choices(group: str) -> list[str]:
    """The names that `group=NAME` takes."""
    return sorted(path.stem for path in (CONFIG_FOLDER / group).glob("*.yaml"))
