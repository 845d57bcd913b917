"""The folder of a training: one training writes to it, and earlier runs stay."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from detector.configs.compose import load_config
from detector.pipeline.training_folder import training_run

CONFIG = load_config([])

HOLD = """
import sys
from detector.configs.compose import load_config
from detector.pipeline.training_folder import training_run
with training_run(load_config([]), sys.argv[1], new=True):
    print("locked", flush=True)
    sys.stdin.read()
"""


def make_run(folder: Path) -> None:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.pt").write_text("weights")
    (folder / "metrics.json").write_text("{}")
    (folder / "split.json").write_text("split")
    (folder / "notes.txt").write_text("mine")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


def test_a_new_training_moves_an_earlier_run_aside(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for number in (1, 2):
        make_run(folder)
        with training_run(CONFIG, str(folder), new=True) as run:
            assert names(run.path) == {"notes.txt", "log.txt"}
        old = tmp_path / f"run_old{number}"
        assert names(old) >= {"checkpoints", "metrics.json", "split.json"}
        assert f"held an earlier run, which is now in {old}" in (folder / "log.txt").read_text()


def test_a_folder_without_checkpoints_is_used_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("stopped before the first step\n")
    with training_run(CONFIG, str(tmp_path), new=True):
        pass
    assert names(tmp_path) == {"log.txt"}
    assert (tmp_path / "log.txt").read_text().startswith("stopped")


def test_a_resumed_training_keeps_its_files(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    with training_run(CONFIG, str(tmp_path / "run"), new=False) as run:
        assert (run.checkpoints / "last.pt").is_file()


def test_the_working_folder_can_be_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    with training_run(CONFIG, ".", new=True):
        assert (tmp_path / "run_old1" / "checkpoints" / "last.pt").is_file()


def test_weights_are_not_moved_away(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    weights = str(tmp_path / "run" / "checkpoints" / "last.pt")
    with (
        pytest.raises(ValueError, match="is in the folder of the new run"),
        training_run(replace(CONFIG, weights=weights), str(tmp_path / "run"), new=True),
    ):
        pass
    assert Path(weights).is_file()


@pytest.mark.skipif(os.name != "posix", reason="POSIX locks")
def test_two_processes_do_not_train_into_one_folder(tmp_path: Path) -> None:
    words = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "locked\n"
        with (
            pytest.raises(ValueError, match=f"another training writes to {tmp_path}; wait until it ends"),
            training_run(CONFIG, str(tmp_path), new=False),
        ):
            pass
        first.kill()
    with training_run(CONFIG, str(tmp_path), new=False):
        pass
