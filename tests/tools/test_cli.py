"""The command line: exit codes, one line per error, help, sweeps."""

import subprocess
import sys
from pathlib import Path

import pytest

from detector.tools import cli
from tests.tools.tiny_run import TINY


def refusal(capsys: pytest.CaptureFixture[str], *words: str, code: int = 2) -> str:
    """Run a command line that must fail. Return its only error line."""
    assert cli.run(list(words)) == code
    message = capsys.readouterr().err
    assert "Traceback" not in message
    lines = message.strip().splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    return lines[-1]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["trane"], ["trane: no such command", "train"]),
        (["train", "--epochs", "5"], ["--epochs: no such option", "key=value"]),
        (["train", "trainer.max_step=5"], ["did you mean trainer.max_steps?"]),
        (["train", "trainer.max_steps=many"], ["trainer.max_steps", "many"]),
        (["train", "trainer.max_steps=0"], ["trainer.max_steps is 0; expected at least 1"]),
        (["train", "backbone=resnet51"], ["backbone=resnet51: no such backbone", "resnet50"]),
        (["train", "proposals=rpn", "loss.targets=measured"], ["loss.targets"]),
        (["train", "experiment=demo", "dataset=voc"], ["experiment/demo"]),
        (["eval"], ["eval needs weights=CHECKPOINT"]),
        (["predict"], ["predict needs images=FILE_OR_FOLDER and weights=CHECKPOINT"]),
        (["download", "year=2007"], ["year=2007: download takes"]),
        (["train", "data="], ["data= is empty"]),
        (["train", "data=photos", "--cfg", "job"], ["--cfg: data= makes a plan", "detector plan"]),
        (["train", "data=photos", "hydra.run.dir=mine"], ["hydra.run.dir: data= makes a plan"]),
        (["train", "data=photos", "--config-dir", "."], ["--config-dir: data= makes a plan"]),
    ],
)
def test_wrong_usage_gives_one_line_and_exit_code_2(
    words: list[str],
    parts: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(capsys, *words)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["eval", "weights=nowhere.pt"], ["nowhere.pt", "no such file"]),
        (["train", "resume=nowhere"], ["nowhere", "no such file"]),
        (["train", "dataset.root=nowhere", "proposals=grid"], ["nowhere"]),
    ],
)
def test_missing_files_give_one_line_and_exit_code_1(
    words: list[str],
    parts: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(capsys, *words, code=1)
    for part in parts:
        assert part in message


def test_a_missing_device_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    message = refusal(capsys, "train", *TINY, "trainer.device=cuda", f"output_dir={tmp_path}")
    assert "set trainer.device=cpu" in message
    assert "expected auto, cpu" in refusal(capsys, "train", *TINY, "trainer.device=abacus", f"output_dir={tmp_path}")


def test_a_loss_that_is_not_finite_gives_exit_code_4(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = [*TINY, "trainer.max_steps=20", "optimizer.lr=1e30", "optimizer.clip_norm=null", "schedule.warmup_steps=0"]
    message = refusal(capsys, "train", *words, f"output_dir={tmp_path}", code=4)
    assert "the loss is not finite at step" in message
    assert "lower optimizer.lr" in message


def test_resuming_from_a_file_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.run(["train", *TINY, f"output_dir={tmp_path}"]) == 0
    capsys.readouterr()
    message = refusal(capsys, "train", f"resume={tmp_path / 'checkpoints' / 'last.pt'}")
    assert "resume=FOLDER" in message


def test_a_damaged_checkpoint_gives_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    assert "damaged or not a checkpoint" in refusal(capsys, "eval", f"weights={tmp_path / 'model.pt'}", code=1)


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"]])
def test_help_lists_every_command_and_choice(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(words) == 0
    message = capsys.readouterr().out
    for name in ("train", "eval", "predict", "proposals", "download", "info", "resnet50", "rfcn", "ohem", "demo"):
        assert name in message


@pytest.mark.parametrize("command", ["train", "eval", "predict", "proposals"])
def test_help_of_a_command_shows_its_settings_with_their_values(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([command, "experiment=demo", "trainer.max_steps=77", "--help"]) == 0
    assert "max_steps: 77" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["data=photos", "config=runs/mine/config.yaml"])
def test_help_of_train_accepts_its_own_words(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train", word, "trainer.max_steps=77", "--help"]) == 0
    assert "max_steps: 77" in capsys.readouterr().out


def test_no_command_is_wrong_usage_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 2
    assert "usage: detector COMMAND" in capsys.readouterr().out


def test_info_names_versions_kernels_and_choices(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["info"]) == 0
    message = capsys.readouterr().out
    for part in ("torch", "roi_pool", "ps_roi_pool", "experiment"):
        assert part in message


def test_a_sweep_runs_every_combination_in_its_own_folder(tmp_path: Path) -> None:
    words = ["train", "--multirun", *TINY, "trainer.seed=1,2", f"output_dir={tmp_path}"]
    assert cli.run(words) == 0
    for number, seed in ((0, 1), (1, 2)):
        assert f"seed: {seed}" in (tmp_path / str(number) / "config.yaml").read_text()
        assert (tmp_path / str(number) / "metrics.json").is_file()


def test_the_installed_program_answers_from_an_empty_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "detector.tools", "train", "trainer.max_step=1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "did you mean trainer.max_steps?" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["Läufe, #1 (a=b) {it's}", "运行 [1], ~2"])
def test_folder_names_need_no_quoting(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.run(["train", *TINY, f"output_dir=~/{name}"]) == 0
    assert cli.run(["train", f"resume={name}", "trainer.max_steps=2"]) == 0
    assert cli.run(["train", f"config={name}", f"output_dir={name} again", f"weights={name}"]) == 0
    assert cli.run(["eval", f"weights={tmp_path / name}", f"output_dir=eval {name}"]) == 0
    assert cli.run(["export", f"weights=~/{name}", f"output={name}/model.safetensors"]) == 0
    assert cli.run(["compare", f"a={name}", f"b=~/eval {name}", f"output_dir=compare {name}"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {name, f"{name} again", f"eval {name}", f"compare {name}"}
    assert (tmp_path / name / "model.safetensors").is_file()


def test_folder_names_in_a_sweep_need_no_quoting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one, two").mkdir()
    words = ["train", "--multirun", "dataset=voc", "proposals=grid", "trainer.seed=1,2", "output_dir=out, #1"]
    assert cli.run([*words, "dataset.root=one, two"]) == 1
    assert "one, two" in capsys.readouterr().err
    assert [path.name for path in sorted((tmp_path / "out, #1").iterdir()) if path.is_dir()] == ["0", "1"]
