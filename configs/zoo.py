"""Names for weights: `zoo.yaml` says where each lies and what its checksum is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from detector.configs.errors import ConfigError

TABLE = Path(__file__).with_name("zoo.yaml")
KINDS = {"classifier": "backbone.weights", "model": "weights"}  # the key that takes a name of this kind


@dataclass(frozen=True, slots=True)
class ZooEntry:
    """Where weights of one name lie."""

    kind: str  # classifier: for a backbone; model: a detector, as a portable file
    url: str
    sha256: str  # whole, or its first digits
    about: str


def zoo_entry(name: str, kind: str) -> ZooEntry | None:
    """The entry of a name, None for a name that the table does not have.

    Raises ConfigError for a name of another kind, telling the key that takes it.
    """
    values = _table().get(name)
    if values is None:
        return None
    entry = ZooEntry(**values)
    if entry.kind != kind:
        raise ConfigError(
            f"{KINDS[kind]}={name}: this name is of a {entry.kind}; give it as {KINDS[entry.kind]}={name}"
        )
    return entry


def zoo_names(kind: str) -> list[str]:
    """Every name of a kind."""
    return [name for name, values in _table().items() if values["kind"] == kind]


def _table() -> dict[str, dict[str, str]]:
    table = OmegaConf.to_container(OmegaConf.load(TABLE))
    assert isinstance(table, dict)
    return {str(name): {key: str(value) for key, value in values.items()} for name, values in table.items()}
