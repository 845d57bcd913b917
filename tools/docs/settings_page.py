"""The page of all settings, generated from the schema: key, type, default, meaning, and the choices of each group."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any, get_type_hints

from detector.configs import schema
from detector.configs.choices import choices
from detector.configs.groups import GROUPS
from detector.configs.meanings import choice_meaning, meaning
from detector.configs.missing import MISSING
from detector.configs.written import written

INTRODUCTION = """\
# Settings

Every setting is written `key=value` on the command line. `group=NAME` replaces a whole part, for example `head=rfcn`.
This page is generated from `configs/schema`, the only place with defaults. The shipped YAML files in
`configs/GROUP` and `configs/experiment` change some of them. This command prints where a value comes from:

```bash
detector config explain trainer.max_steps experiment=demo
```

"required" marks a setting without a default. `null` means no value. Lists are written `[a,b]`,
tables `{key:value}`.
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the page."""

    key: str
    type: str
    default: str
    meaning: str | None


def settings_page() -> str:
    """Return the page in Markdown."""
    parts = [INTRODUCTION]
    groups = _groups()
    parts += ["## The run", "", *_table([row for row in settings_of(schema.Config, "") if row.key not in groups])]
    for name, kind in groups.items():
        parts += [f"## {name}", "", _docstring(kind), ""]
        shared = settings_of(kind, f"{name}.")
        if name in GROUPS:
            parts += ["Choices: " + " ".join(f"`{name}={choice}`" for choice in choices(name)), ""]
        parts += _table(shared)
        for choice, own in GROUPS.get(name, {}).items():
            rows = [setting for setting in settings_of(own, f"{name}.") if setting not in shared]
            parts += [f"### {name}: {choice}", "", _docstring(own), "", *_table(rows)]
    return "\n".join(parts) + "\n"


def settings_of(owner: type, prefix: str) -> list[Setting]:
    """Return the settings of a schema class, without `kind`, which only names the class."""
    hints = get_type_hints(owner)
    found = []
    for field in fields(owner):
        if field.name == "kind":
            continue
        value: Any = field.default if field.default is not NO_DEFAULT else None
        if field.default_factory is not NO_DEFAULT:
            value = field.default_factory()
        default = "required" if value == MISSING else written(value)
        found.append(Setting(prefix + field.name, _type(hints[field.name]), default, _meaning(owner, field.name)))
    return found


def _groups() -> dict[str, type]:
    """Return the top settings that are groups, and their classes."""
    hints = get_type_hints(schema.Config)
    return {name: kind for name, kind in hints.items() if isinstance(kind, type) and is_dataclass(kind)}


def _docstring(kind: type) -> str:
    """Return the written docstring; empty for the docstring that a dataclass generates from its fields."""
    text = inspect.getdoc(kind) or ""
    return "" if text.startswith(f"{kind.__name__}(") or "__doc__" not in vars(kind) else text


def _meaning(owner: type, name: str) -> str | None:
    """Return the comment on a setting, with the meaning of each of its choices."""
    text = meaning(owner, name)
    hint = get_type_hints(owner)[name]
    for kind in (hint, *getattr(hint, "__args__", ())):
        if isinstance(kind, type) and issubclass(kind, Enum):
            options = ((member.name, choice_meaning(kind, member.name)) for member in kind)
            listed = "; ".join(f"`{option}`" + (f": {comment}" if comment else "") for option, comment in options)
            text = f"{text}. {listed}" if text else listed
    return text


def _type(hint: Any) -> str:
    """Return the name of a type, as the page shows it."""
    arguments = getattr(hint, "__args__", ())
    if type(None) in arguments:
        return " or ".join([*(_type(kind) for kind in arguments if kind is not type(None)), "null"])
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "choice"
    if arguments:
        return "list of " + _type(arguments[0]) if len(arguments) == 1 else "table"
    name = str(hint.__name__)
    return {"int": "whole number", "float": "number", "str": "text", "bool": "true or false"}.get(name, name)


def _table(settings: list[Setting]) -> list[str]:
    """Return a table in Markdown; empty without settings."""
    if not settings:
        return []
    rows = [
        f"| `{setting.key}` | {setting.type} | `{setting.default}` | {_escaped(setting.meaning or '')} |"
        for setting in settings
    ]
    table = ["| key | type | default | meaning |", "|---|---|---|---|", *rows]
    # site.css shows each row as a block on a telephone.
    return ['<div class="stacked" markdown>', "", *table, "", "</div>", ""]


def _escaped(text: str) -> str:
    return re.sub(r"\bNone\b", "null", text).replace("|", "\\|").replace("<", "&lt;")
