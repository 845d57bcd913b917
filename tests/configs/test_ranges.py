"""Every number among the settings has a range, and a number outside it is refused."""

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import get_type_hints

import pytest
from omegaconf import OmegaConf

from detector.configs import schema
from detector.configs.errors import ConfigError
from detector.configs.groups import GROUPS
from detector.configs.ranges import RANGES, check_ranges


def numeric_settings() -> Iterator[str]:
    """Yield the key of every setting that is a number, or a list or table of numbers, of every kind."""
    hints = get_type_hints(schema.Config)
    others = {name: [hint] for name, hint in hints.items() if name not in GROUPS and is_dataclass(hint)}
    for group, kinds in {**{name: list(kinds.values()) for name, kinds in GROUPS.items()}, **others}.items():
        for kind in kinds:
            types = get_type_hints(kind)
            for setting in fields(kind):
                words = str(types[setting.name]).replace("[", " ").replace("]", " ").replace(",", " ").split()
                if {"int", "float"}.intersection(words) or types[setting.name] in (int, float):
                    yield f"{group}.{setting.name}"


def check(key: str, value: object) -> None:
    group, setting = key.split(".")
    check_ranges(OmegaConf.create({group: {setting: value}}))


def test_every_number_has_a_range() -> None:
    assert set(numeric_settings()) == set(RANGES)


@pytest.mark.parametrize("key", RANGES)
def test_numbers_outside_are_refused(key: str) -> None:
    allowed = RANGES[key]
    outside = [math.nan, math.inf, -math.inf, allowed.least - 1, allowed.most + 1]
    outside += [allowed.least] * allowed.above + [allowed.most] * allowed.below
    for value in outside:
        with pytest.raises(ConfigError, match=rf"^{key} is .*; expected {allowed}$"):
            check(key, value)
        with pytest.raises(ConfigError, match=rf"^{key} is "):
            check(key, [value] * (allowed.length or 1))
    for value in ([] if allowed.above else [allowed.least]) + ([] if allowed.below else [allowed.most]):
        if math.isfinite(value):
            check(key, value)
    check(key, None)


def test_lists_have_as_many_numbers_as_needed() -> None:
    check("input.mean", [0.5, 0.5, 0.5])
    with pytest.raises(ConfigError, match=r"input.mean is \[0.5\]; expected 3 numbers"):
        check("input.mean", [0.5])
    with pytest.raises(ConfigError, match=r"proposals.scales is \[\]; expected one or more numbers"):
        check("proposals.scales", [])
    check("schedule.milestones", [])
