"""Where the value of a setting comes from: a default, a file, a word of the command line."""

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
def test_a_value_is_told_with_what_it_came_from_and_what_it_replaced(
    key: str, overrides: list[str], lines: list[str]
) -> None:
    told = explain(key, overrides).splitlines()
    assert all(line.startswith(expected) for line, expected in zip(told, lines, strict=False))
    assert len(told) >= len(lines)


def test_a_group_is_a_table_of_its_settings() -> None:
    told = explain("optimizer", ["experiment=demo"]).splitlines()
    assert "optimizer.lr              0.02    configs/experiment/demo.yaml" in told
    assert all(line.startswith("optimizer.") for line in told)


def test_the_schema_s_comment_is_what_a_setting_means() -> None:
    assert explain("trainer.seed", []).endswith("seed of all random numbers; 3 as in fast-rcnn")
    assert "fast-rcnn's demo" in explain("proposals.convention", ["proposals=file", "proposals={train:a,test:b}"])


def test_a_saved_config_is_a_source_of_its_own(tmp_path: Path) -> None:
    RunFolder(tmp_path).write_config(load_config(["experiment=demo"]))
    saved = tmp_path / "config.yaml"
    assert f"from {saved}" in explain("trainer.max_steps", [], saved)
    changed = explain("optimizer", ["optimizer=adamw", "optimizer.lr=1"], saved)
    assert "command line: optimizer.lr=1" in changed
    assert str(saved) not in changed


def test_a_key_that_there_is_not_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="trainer.max_step: no such setting; did you mean trainer.max_steps?"):
        explain("trainer.max_step", [])


@pytest.mark.parametrize("words", [[], ["explain"], ["explain", "trainer.seed=3"], ["tell", "trainer.seed"]])
def test_config_wants_show_or_explain(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["config", *words]) == 2
    assert "config takes show [key=value ...] or explain KEY" in capsys.readouterr().err


def test_what_show_prints_repeats_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["config", "show", "experiment=demo", "trainer.seed=5"]) == 0
    (tmp_path / "config.yaml").write_text(capsys.readouterr().out)
    assert cli.run(["config", "show", f"config={tmp_path / 'config.yaml'}", "trainer.seed=6"]) == 0
    printed = OmegaConf.create(capsys.readouterr().out)
    assert OmegaConf.select(printed, "trainer.seed") == 6
    assert OmegaConf.select(printed, "trainer.max_steps") == 2000
