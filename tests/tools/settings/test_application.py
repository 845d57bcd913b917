"""Commands through Hydra: run folder, search path, options, and refusals."""

import json
import os
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from detector.configs.compose import load_config
from detector.configs.errors import ConfigError
from detector.configs.groups import to_plain
from detector.engine.checkpoint import save_checkpoint
from detector.pipeline.resume import find_start
from detector.pipeline.run_folder import RunFolder
from detector.tools import cli
from detector.tools.settings.application import Task, objective, run_once
from detector.tools.settings.command_line import read_line

MINE = """\
# @package _global_
defaults:
  - demo
  - override /head: mine
trainer:
  max_steps: 77
"""


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def my_configs(tmp_path: Path) -> Path:
    """A config folder of a user, with an experiment and a head."""
    folder = tmp_path / "my configs, [1]"
    (folder / "experiment").mkdir(parents=True)
    (folder / "head").mkdir()
    (folder / "experiment" / "mine.yaml").write_text(MINE)
    (folder / "head" / "mine.yaml").write_text("defaults:\n  - rfcn_schema\nk: 5\n")
    return folder


def task_of(*words: str) -> Task:
    """Return the task that a command line gives to the command."""
    found: list[Task] = []
    line = read_line(words)
    assert run_once("train", line, find_start(line.overrides, line.search), lambda task: found.append(task) or 0) == 0
    return found[0]


def test_a_run_gets_the_checked_settings_and_a_new_folder(tmp_path: Path) -> None:
    task = task_of("experiment=demo", "trainer.seed=5", "optimizer.lr_factors={backbone:0.1}")
    assert task.config == load_config(["experiment=demo", "trainer.seed=5", "optimizer.lr_factors={backbone:0.1}"])
    assert (task.folder.parent, task.folder.name[:6], task.experiment) == (Path("runs"), "train_", "demo")
    words = yaml.safe_load((task.folder / ".hydra" / "overrides.yaml").read_text())
    assert words[:2] == ["experiment=demo", "trainer.seed=5"]


def test_output_dir_or_hydras_setting_names_the_folder() -> None:
    assert task_of("experiment=demo", "output_dir=a, b=#1").folder == Path("a, b=#1")
    assert task_of("experiment=demo", "hydra.run.dir=c, d=#1").folder == Path("c, d=#1")
    with pytest.raises(ConfigError, match="both name the run's folder"):
        task_of("experiment=demo", "output_dir=a", "hydra.run.dir=b")


def test_a_resumed_run_starts_from_its_saved_settings(tmp_path: Path) -> None:
    words = ["experiment=demo", "head=rfcn", "head.k=5", "optimizer.lr_factors={backbone:0.1}"]
    saved = to_plain(load_config(words))
    save_checkpoint(Path("it's/checkpoints/last.pt"), {"config": saved, "step": 5})
    task = task_of("resume=it's", "trainer.log_every=3")
    assert task.config == load_config([*words, "trainer.log_every=3", "output_dir=it's", "resume=it's"])
    assert task.folder == Path("it's")
    assert task.checkpoint is not None
    assert task.checkpoint["step"] == 5
    assert task_of("resume=it's", "experiment=demo").config.head == load_config(["experiment=demo"]).head


def test_a_group_of_a_saved_config_can_be_replaced() -> None:
    words = ["experiment=demo", "trainer.seed=5", "optimizer.lr_factors={backbone:0.1}"]
    RunFolder(Path("one")).write_config(load_config(words))
    assert task_of("config=one", "head=rfcn").config == load_config([*words, "head=rfcn"])


def test_experiments_of_the_user_are_found(my_configs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--config-dir", str(my_configs)], [f"--config-dir={my_configs}"]):
        task = task_of(*words, "experiment=mine", "trainer.seed=5")
        assert (task.config.trainer.max_steps, task.config.trainer.seed, task.config.head.k) == (77, 5, 5)
        assert task.experiment == "mine"
    (my_configs / "plain").mkdir()
    os.rename(my_configs, "plain")
    assert task_of("experiment=mine", "hydra.searchpath=[file://plain]").config.trainer.max_steps == 77
    assert cli.run(["train", "--config-dir", "plain", "experiment=my"]) == 2
    assert capsys.readouterr().err.startswith("error: experiment=my: no such experiment")


def test_an_error_of_the_command_is_raised_unchanged() -> None:
    def command(task: Task) -> int:
        raise OSError("the disk is gone")

    line = read_line(["experiment=demo"])
    with pytest.raises(OSError, match="the disk is gone"):
        run_once("train", line, find_start(line.overrides), command)
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_hydra_prints_the_settings_without_a_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.run(["train", "experiment=demo", "trainer.seed=5", "--cfg", "job"]) == 0
    shown = OmegaConf.create(capsys.readouterr().out)
    assert OmegaConf.to_container(shown) == to_plain(load_config(["experiment=demo", "trainer.seed=5"]))
    assert cli.run(["train", "experiment=demo", "--cfg=job", "-p", "trainer"]) == 0
    assert "max_steps: 2000" in capsys.readouterr().out
    assert cli.run(["alternate", "experiment=demo", "proposals=rpn", "--info", "defaults-tree"]) == 0
    assert "experiment: demo" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["hydra.rundir=x"], ["hydra.rundir: Hydra has no such setting"]),
        (["hydra/launcher=slurm"], ["hydra/launcher=slurm", "fast-rfcn[sweep]"]),
        (["-m", "hydra/sweeper=grid"], ["hydra/sweeper=grid", "fast-rfcn[sweep]"]),
        (["+hydra.foo=1"], ["+hydra.foo=1", "allow no + or ~ here"]),
        (["~hydra.run.dir"], ["allow no + or ~ here"]),
        (["+foo=1"], ["+foo=1: no setting can be added"]),
        (["++trainer.seed=1"], ["no setting can be added; write trainer.seed=VALUE"]),
        (["~trainer.seed"], ["no setting can be removed"]),
        (["trainer.seed=1,2"], ["trainer.seed=1,2"]),
        (["--cfg", "all-of-it"], ["--cfg all-of-it: expected one of job, hydra, all"]),
        (["--cfg"], ["--cfg: needs a value"]),
        (["--cfg", "job", "--multirun"], ["--cfg --multirun: give one of them"]),
        (["--resolve"], ["--resolve: needs --cfg"]),
        (["--config-dir", "nowhere"], ["--config-dir nowhere: no such folder"]),
        (["--config-name", "other"], ["--config-name: no such option", "--config-dir"]),
    ],
)
def test_words_without_effect_are_refused_in_one_line(
    words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.run(["train", "experiment=demo", *words]) == 2
    message = capsys.readouterr().err.strip()
    assert "\n" not in message
    for part in parts:
        assert part in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["eval", "predict", "benchmark", "proposals", "compress", "export"])
@pytest.mark.parametrize("word", ["hydra.run.dir=/x", "+foo=1", "++trainer.seed=1", "~trainer.seed"])
def test_every_command_refuses_words_without_effect(
    command: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([command, "experiment=demo", word]) == 2
    assert word in capsys.readouterr().err


def test_alternate_refuses_resume(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["alternate", "experiment=demo", "resume=auto"]) == 2
    assert "alternate resumes without it" in capsys.readouterr().err


def test_the_objective_is_the_map_that_selects_the_best_checkpoint(tmp_path: Path) -> None:
    assert str(objective(tmp_path)) == "nan"
    (tmp_path / "metrics.json").write_text(json.dumps({"voc07_11point": {"mAP": 0.25}}))
    assert objective(tmp_path) == 0.25


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("detector tra", ["train"]),
        ("detector train head=", ["head=fast_rcnn", "head=rfcn"]),
        ("detector eval trainer.max_st", ["trainer.max_steps="]),
    ],
)
def test_words_are_completed(
    line: str, completed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert cli.run(["-sc", "query=bash"]) == 0
    assert set(completed) <= set(capsys.readouterr().out.split())
