"""Names of downloadable weights: `zoo.yaml` holds the URL and the checksum of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from detector.configs.errors import ConfigError

TABLE = Path(__file__).with_name("zoo.yaml")
KINDS = {"classifier": "backbone.weights", "model": "weights"}  # the key that takes a name of this kind


@dataclass(frozen=True, slots=True)
class ZooEntry:
    """The weights behind one name."""

    kind: str  # classifier: for a backbone; model: a detector, as a portable file
    url: str
    sha256: str  # all digits, or the first ones
    about: str


def zoo_entry(name: str, kind: str) -> ZooEntry | None:
    """Return the entry called `name`. None if the table has no such name.

    Raises ConfigError for a name of another kind; the message names the key that accepts it.
    """
    values = _table().get(name)
    if values is None:
        return None
    entry = ZooEntry(**values)
    if entry.kind != kind:
        raise ConfigError(
            f"{KINDS[kind]}={name}: expected the name of a {kind}, but this is a {entry.kind}; "
            f"write {KINDS[entry.kind]}={name}"
        )
    return entry


def zoo_names(kind: str) -> list[str]:
    """Return all names of a kind."""
    return [name for name, values in _table().items() if values["kind"] == kind]


def _table() -> dict[str, dict[str, str]]:
    table = OmegaConf.to_container(OmegaConf.load(TABLE))
    assert isinstance(table, dict)
    return {str(name): {key: str(value) for key, value in values.items()} for name, values in table.items()}
