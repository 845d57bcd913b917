"""The source of a setting's value: a default, a file, or a word of the command line."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from detector.configs.compose import load_config
from detector.configs.errors import ConfigError
from detector.pipeline.run_folder import RunFolder
from detector.tools import cli
from detector.tools.settings.config_sources import explain


@pytest.mark.parametrize(
    ("key", "overrides", "lines"),
    [
        ("loss.sigma", [], ["loss.sigma = 1.0", "  from the default of LossConfig in configs/schema/loss.py"]),
        (
            "head.pooling",
            ["head=fast_rcnn_align"],
            ["head.pooling = roi_align", "  from configs/head/fast_rcnn_align.yaml"],
        ),
        (
            "trainer.max_steps",
            ["experiment=demo", "trainer.max_steps=7"],
            [
                "trainer.max_steps = 7",
                "  from the command line: trainer.max_steps=7",
                "  instead of 2000 from configs/experiment/demo.yaml",
                "  instead of 40000 from the default of TrainerConfig in configs/schema/trainer.py",
            ],
        ),
        ("output_dir", ["output_dir=x"], ["output_dir = x", "  from the command line: output_dir=x"]),
        ("backbone.weights", [], ["backbone.weights = imagenet", "  from configs/backbone/vgg16.yaml"]),
        ("optimizer.lr_factors", ["optimizer.lr_factors={head:2}"], ["optimizer.lr_factors = {head:2.0}"]),
        (
            "schedule.decay",
            ["schedule={decay:cosine}"],
            ["schedule.decay = cosine", "  from the command line: schedule={"],
        ),
    ],
)
def test_a_value_is_printed_with_its_source_and_the_replaced_values(
    key: str, overrides: list[str], lines: list[str]
) -> None:
    printed_lines = explain(key, overrides).splitlines()
    assert all(line.startswith(expected) for line, expected in zip(printed_lines, lines, strict=False))
    assert len(printed_lines) >= len(lines)


def test_a_group_is_printed_as_a_table_of_its_settings() -> None:
    printed_lines = explain("optimizer", ["experiment=demo"]).splitlines()
    assert "optimizer.lr              0.02    configs/experiment/demo.yaml" in printed_lines
    assert all(line.startswith("optimizer.") for line in printed_lines)


def test_the_comment_in_the_schema_explains_a_setting() -> None:
    assert explain("trainer.seed", []).endswith("seed of all random numbers; 3 as in fast-rcnn")
    assert "fast-rcnn's demo" in explain("proposals.convention", ["proposals=file", "proposals={train:a,test:b}"])


def test_a_saved_config_is_named_as_the_source(tmp_path: Path) -> None:
    RunFolder(tmp_path).write_config(load_config(["experiment=demo"]))
    saved = tmp_path / "config.yaml"
    assert f"from {saved}" in explain("trainer.max_steps", [], saved)
    changed = explain("optimizer", ["optimizer=adamw", "optimizer.lr=1"], saved)
    assert "command line: optimizer.lr=1" in changed
    assert str(saved) not in changed


def test_an_unknown_key_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="trainer.max_step: no such setting; did you mean trainer.max_steps?"):
        explain("trainer.max_step", [])


@pytest.mark.parametrize("words", [[], ["explain"], ["explain", "trainer.seed=3"], ["tell", "trainer.seed"]])
def test_config_needs_show_or_explain(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["config", *words]) == 2
    assert "config takes show [key=value ...] or explain KEY" in capsys.readouterr().err


def test_the_output_of_show_can_be_used_as_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["config", "show", "experiment=demo", "trainer.seed=5"]) == 0
    (tmp_path / "config.yaml").write_text(capsys.readouterr().out)
    assert cli.run(["config", "show", f"config={tmp_path / 'config.yaml'}", "trainer.seed=6"]) == 0
    printed = OmegaConf.create(capsys.readouterr().out)
    assert OmegaConf.select(printed, "trainer.seed") == 6
    assert OmegaConf.select(printed, "trainer.max_steps") == 2000
