"""Words of a command line that belong to one command, beside the settings that all commands share."""

from __future__ import annotations

from dataclasses import fields

from detector.configs.paths import plain_text


def split_words(words: list[str], keys: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    """Return the words that are settings, and the values of the command's own `keys` (empty if not given)."""
    own = dict.fromkeys(keys, "")
    rest = []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in own:
            own[key] = plain_text(value)
        else:
            rest.append(word)
    return rest, own


def with_group(words: list[str], group: str, schema: type) -> list[str]:
    """Return the words, with the prefix `group.` before each key that is a setting of that group."""
    own = {field.name for field in fields(schema)}
    return [f"{group}.{word}" if word.partition("=")[0] in own else word for word in words]
