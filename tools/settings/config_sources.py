"""`detector config explain KEY`: print the value of a setting, and the default, file or override that gives it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from detector.configs.compose import changes, layers, load_config, override_config, read_config, require_known
from detector.configs.groups import GROUPS, to_plain
from detector.configs.meanings import meaning
from detector.configs.schema import Config
from detector.configs.written import written


@dataclass(frozen=True, slots=True)
class Source:
    """A value of a setting, and the place that gives it."""

    value: Any
    source: str


def explain(key: str, overrides: Sequence[str], saved: Path | None = None) -> str:
    """Return the value, sources and meaning of the setting `key`, or a table of all settings below it.

    `overrides` change the shipped defaults, or the settings in the file `saved`.
    Raises ConfigError for an unknown key, with the most similar known key.
    """
    config = load_config(overrides) if saved is None else override_config(read_config(saved), overrides)
    typed = OmegaConf.structured(config)
    require_known(key, typed)
    files = _files(overrides, saved)
    planned = {} if saved is None else _planned(saved)
    leaves = [leaf for leaf in _leaves(typed) if f"{leaf}.".startswith(f"{key}.")]
    if leaves == [key]:
        *weaker, strongest = _with_reasons(key, _sources(key, typed, files, overrides), saved, planned)
        lines = [f"{key} = {written(_plain(config, key))}", f"  from {strongest.source}"]
        lines += [f"  instead of {written(item.value)} from {item.source}" for item in reversed(weaker)]
        comment = meaning(*_owner(key, typed))
        return "\n".join([*lines, f"  {comment}"] if comment else lines)
    rows = []
    for leaf in leaves:
        sources = _with_reasons(leaf, _sources(leaf, typed, files, overrides), saved, planned)
        rows.append((leaf, written(_plain(config, leaf)), sources[-1].source))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{leaf:<{widths[0]}}  {value:<{widths[1]}}  {source}" for leaf, value, source in rows)


def _files(overrides: Sequence[str], saved: Path | None) -> list[tuple[str, DictConfig]]:
    """Return the files and their values. A later file replaces values of an earlier one."""
    if saved is None:
        return layers(overrides)
    swapped = {key for _, key, _ in changes(overrides) if key in GROUPS}
    kept = {key: value for key, value in read_config(saved).items() if key not in swapped}
    fresh = layers([line for line, key, _ in changes(overrides) if key in swapped])
    chosen = [(file, values) for file, values in fresh if swapped.intersection(map(str, values)) and "/" in file]
    return [(str(saved), OmegaConf.create(kept)), *chosen]


def _planned(saved: Path) -> dict[str, Source]:
    """Return the value and the reason of each planned setting, from the plan.json beside a run's config.yaml."""
    path = (saved if saved.is_dir() else saved.parent) / "plan.json"
    if not path.is_file():
        return {}
    choices = json.loads(path.read_text())["choices"]
    return {choice["key"]: Source(choice["value"], f"planned: {choice['reason']}") for choice in choices}


def _with_reasons(key: str, sources: list[Source], saved: Path | None, planned: dict[str, Source]) -> list[Source]:
    """Return the sources. For a planned value, replace the saved file by the plan's reason.

    A setting that was changed when the run was resumed has another value than the plan.
    """
    if key not in planned:
        return sources
    choice = planned[key]
    return [choice if item.source == str(saved) and item.value == choice.value else item for item in sources]


def _sources(
    key: str, typed: DictConfig, files: Sequence[tuple[str, DictConfig]], overrides: Sequence[str]
) -> list[Source]:
    """Return every place that gives `key` a value. The last place takes effect."""
    owner, name = _owner(key, typed)
    defaults = OmegaConf.structured(owner)
    found = []
    if not OmegaConf.is_missing(defaults, name):
        found.append(Source(_value(defaults, name), f"the default of {owner.__name__} in {_schema_file(owner)}"))
    found += [Source(_value(values, key), file) for file, values in files if _has(values, key)]
    for line, changed, value in changes(overrides):
        if changed == key:
            found.append(Source(value, f"the command line: {line}"))
        elif key.startswith(f"{changed}.") and isinstance(value, dict):
            below, rest = OmegaConf.create(value), key[len(changed) + 1 :]
            found += [Source(_value(below, rest), f"the command line: {line}")] if _has(below, rest) else []
    return found


def _schema_file(owner: type) -> str:
    """Return the file of a schema class, relative to the project's root."""
    return f"configs/schema/{owner.__module__.rpartition('.')[2]}.py"


def _owner(key: str, typed: DictConfig) -> tuple[type, str]:
    """Return the schema class that has the setting `key`, and the setting's name in it."""
    parent, _, name = key.rpartition(".")
    owner = OmegaConf.get_type(typed, parent) if parent else Config
    assert owner is not None
    return owner, name


def _has(values: DictConfig, key: str) -> bool:
    parent, _, name = key.rpartition(".")
    below = OmegaConf.select(values, parent) if parent else values
    return isinstance(below, DictConfig) and name in below


def _leaves(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Yield the keys of settings without settings below them. A table with free keys is one setting."""
    for name in map(str, node):
        value = node[name]
        if isinstance(value, DictConfig) and OmegaConf.get_type(value) is not dict:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _plain(config: Config, key: str) -> Any:
    value: Any = to_plain(config)
    for name in key.split("."):
        value = value[name]
    return value


def _value(values: DictConfig, key: str) -> Any:
    value = OmegaConf.select(values, key)
    if OmegaConf.is_config(value):
        return OmegaConf.to_container(value, resolve=True, enum_to_str=True)
    return getattr(value, "name", value)
