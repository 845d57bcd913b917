"""The keys of all settings, read from the schema. A wrong key is rejected before Hydra is loaded."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import Field, fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

from detector.configs.errors import ConfigError
from detector.configs.groups import GROUPS
from detector.configs.paths import LIST_MARK, MARK, hydra_list, hydra_value
from detector.configs.schema import Config


@cache
def known_keys() -> tuple[str, ...]:
    """Return every group and every setting of every kind, for example `head`, `head.k` and `head.output_size`."""
    return tuple(dict.fromkeys(("experiment", *(key for key, _ in _fields_of(Config, "")))))


@cache
def path_keys() -> frozenset[str]:
    """Return the settings that hold a path in at least one kind."""
    return frozenset(key for key, item in _fields_of(Config, "") if item.metadata == MARK)


@cache
def path_list_keys() -> frozenset[str]:
    """Return the settings that hold a list of paths."""
    return frozenset(key for key, item in _fields_of(Config, "") if item.metadata == LIST_MARK)


def hydra_word(word: str, *, sweeping: bool = False) -> str:
    """Return a command-line argument in Hydra's syntax: a path is quoted, see `detector.configs.paths`."""
    key, equals, value = word.partition("=")
    if equals and key in path_keys():
        return f"{key}={hydra_value(key, value, sweeping=sweeping)}"
    return f"{key}={hydra_list(value, sweeping=sweeping)}" if equals and key in path_list_keys() else word


def check_words(words: Sequence[str]) -> None:
    """Raise ConfigError for an argument that is not `key=value`, or whose key is in no kind of config.

    Hydra's prefixes + and ~ are rejected too: the set of settings is fixed, so no key can be added or removed.
    """
    for word in words:
        key, equals, _ = word.partition("=")
        bare = key.lstrip("+~")
        if key.startswith(("hydra.", "hydra/")):
            raise ConfigError(f"{word}: only train and alternate accept Hydra's own settings; leave it out")
        if key != bare:
            what = "removed" if key.startswith("~") else "added"
            hint = f"; write {bare}=VALUE" if bare in known_keys() else nearest(bare, known_keys())
            raise ConfigError(f"{word}: no setting can be {what}{hint}")
        if not equals:
            raise ConfigError(f"{word!r} is not of the form key=value")
        if key not in known_keys():
            raise ConfigError(f"{key}: no such setting{nearest(key, known_keys())}")


def nearest(name: str, known: Sequence[str]) -> str:
    """Return the end of a message about an unknown name: the nearest known name, or all names if they are few."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    tail = name.split(".")[-1]
    close = close or [key for key in known if key.split(".")[-1] == tail][:1]
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known: {', '.join(known)}" if len(known) < 30 else ""


def _fields_of(schema: type, prefix: str) -> Iterator[tuple[str, Field[Any]]]:
    hints = get_type_hints(schema)
    for field in fields(schema):
        key = f"{prefix}{field.name}"
        yield key, field
        kinds = [*GROUPS[key].values()] if key in GROUPS else [hints[field.name]]
        for kind in kinds:
            if is_dataclass(kind):
                assert isinstance(kind, type)
                yield from _fields_of(kind, f"{key}.")
