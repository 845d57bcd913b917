"""Values in the form of the command line."""

from typing import Any

import pytest

from detector.configs.compose import load_config
from detector.configs.schema import AutoDatasetConfig, BoxLoss
from detector.configs.written import written


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (False, "false"),
        (0.25, "0.25"),
        (BoxLoss.giou, "giou"),
        ([600, None], "[600,null]"),
        ((0.5, 2.0), "[0.5,2.0]"),
        ({"head": 4.0, "proposals": 2}, "{head:4.0,proposals:2}"),
        (["layer1.0", "two words", "null"], "[layer1.0,'two words','null']"),
        ({"a (b)": "c"}, r"{a\ \(b\):c}"),
    ],
)
def test_values_have_the_form_of_the_command_line(value: Any, text: str) -> None:
    assert written(value) == text


def test_written_values_are_read_back() -> None:
    values = {"optimizer.lr_factors": {"head": 4.0}, "input.short_sides": [320, 480], "loss.box": BoxLoss.giou}
    config = load_config([f"{key}={written(value)}" for key, value in values.items()])
    assert (config.optimizer.lr_factors, config.input.short_sides, config.loss.box) == tuple(values.values())


@pytest.mark.parametrize(
    "name", ["person (adult)", "a,b", "it's", "1", "007", "null", "Käse", "a: b", "x=y", "[z]", " a"]
)
def test_any_class_name_is_read_back(name: str) -> None:
    words = [f"dataset.classes={written([name, 'cat'])}", f"dataset.rename={written({'cat': name})}"]
    config = load_config(["dataset=auto", "dataset.root=x", *words]).dataset
    assert isinstance(config, AutoDatasetConfig)
    assert config.classes == [name, "cat"]
    assert config.rename == {"cat": name}
