"""The keys of all settings, read from the schema alone: a wrong key is refused before Hydra is loaded."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import Field, fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

from detector.configs.errors import ConfigError
from detector.configs.groups import GROUPS
from detector.configs.paths import MARK, hydra_value
from detector.configs.schema import Config


@cache
def known_keys() -> tuple[str, ...]:
    """Every setting and group of every kind, for example `head`, `head.k` and `head.output_size`."""
    return tuple(dict.fromkeys(("experiment", *(key for key, _ in _fields_of(Config, "")))))


@cache
def path_keys() -> frozenset[str]:
    """The settings that hold a path in one kind at least."""
    return frozenset(key for key, item in _fields_of(Config, "") if item.metadata == MARK)


def hydra_word(word: str, *, sweeping: bool = False) -> str:
    """A word of the command line as Hydra has to be given it: a path is quoted, see `detector.configs.paths`."""
    key, equals, value = word.partition("=")
    return f"{key}={hydra_value(key, value, sweeping=sweeping)}" if equals and key in path_keys() else word


def check_words(words: Sequence[str]) -> None:
    """Raises ConfigError for a word that is not `key=value`, or whose key no kind of config has.

    Hydra's prefixes for adding and deleting keys are refused: the settings are fixed, so nothing would come of them.
    """
    for word in words:
        key, equals, _ = word.partition("=")
        bare = key.lstrip("+~")
        if key.startswith(("hydra.", "hydra/")):
            raise ConfigError(f"{word}: only train and alternate take Hydra's own settings")
        if key != bare:
            what = "removed" if key.startswith("~") else "added"
            hint = f"; write {bare}=VALUE" if bare in known_keys() else nearest(bare, known_keys())
            raise ConfigError(f"{word}: no setting can be {what}{hint}")
        if not equals:
            raise ConfigError(f"{word!r} is not of the form key=value")
        if key not in known_keys():
            raise ConfigError(f"{key}: no such setting{nearest(key, known_keys())}")


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of a message on an unknown name: the nearest known one, or all where they are few."""
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
