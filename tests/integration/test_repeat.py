"""A run can be repeated from its folder, and another training can start from its weights."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from detector.engine.checkpoint import load_checkpoint
from detector.tools import cli
from detector.tools.bench import kill_check

SHORT = ["trainer.max_steps=3", "trainer.deterministic=true", "input.flip=true", "trainer.profile_steps=1"]


@pytest.fixture(autouse=True)
def _restore_algorithms() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cudnn.benchmark = before[1]


def test_a_run_repeated_from_its_config_gives_the_same_bytes(settings: list[str], tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert cli.run(["train", *settings, *SHORT, f"output_dir={first}"]) == 0
    torch.manual_seed(99)
    assert cli.run(["train", f"config={first / 'config.yaml'}", f"output_dir={second}", "trainer.workers=1"]) == 0
    assert kill_check.differences(load_checkpoint(first), load_checkpoint(second)) == []
    (start,) = json.loads((second / "history.json").read_text())["starts"]
    assert start["step"] == 0
    assert {"commit", "torch", "cpu", "gpu", "command", "date"} <= start.keys()


def test_a_new_head_is_started_only_on_request(
    settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    assert cli.run(["train", *settings, *SHORT, f"output_dir={old}"]) == 0
    capsys.readouterr()
    classes = "dataset.classes=[disc,square,triangle,cross,diamond,ring,star]"
    words = ["train", *settings, *SHORT, classes, f"weights={old}", f"output_dir={new}", "optimizer.lr=1e-9"]
    assert cli.run(words) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith(f"error: {old} has 6 classes (disc, ")
    assert "the dataset has 7" in told
    assert "start a new head with weights_skip=[head]" in told
    assert cli.run([*words, "weights_skip=[head]"]) == 0
    before, after = load_checkpoint(old)["model"], load_checkpoint(new)["model"]
    kept = [key for key in before if key.startswith("backbone.") and before[key].is_floating_point()]
    assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in kept)
    assert after["head.scores.weight"].shape[0] == 8


def test_other_classes_of_the_same_number_are_refused(
    settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every tensor would fit, so resuming and warm starts compare the class names, with their order."""
    old = tmp_path / "old"
    words = ["train", *settings, *SHORT]
    assert cli.run([*words, f"output_dir={old}"]) == 0
    before = (old / "checkpoints" / "last.pt").read_bytes()
    swapped = "square,disc,triangle,cross,diamond,ring"
    (own,) = (word for word in settings if word.startswith("dataset.classes="))
    others = [*(word for word in words if word != own), f"dataset.classes=[{swapped}]"]
    for start in (
        ["train", f"resume={old}", f"dataset.classes=[{swapped}]", "trainer.max_steps=4"],
        ["train", "resume=auto", f"output_dir={old}", f"dataset.classes=[{swapped}]", "trainer.max_steps=4"],
        [*others, f"weights={old}", f"output_dir={tmp_path / 'new'}"],
    ):
        capsys.readouterr()
        assert cli.run(start) == 1, start
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert message.startswith("error: ")
        for part in (
            "6 classes (disc, square, ",
            "6 (square, disc, ",
            f"{old}",
            "weights_skip=[head]",
            "dataset.classes",
        ):
            assert part in message, message
    assert (old / "checkpoints" / "last.pt").read_bytes() == before

    new = [*others, f"weights={old}", f"output_dir={tmp_path / 'new'}", "optimizer.lr=1e-9"]
    assert cli.run([*new, "weights_skip=[head]"]) == 0
    assert load_checkpoint(tmp_path / "new")["classes"] == swapped.split(",")


@pytest.mark.slow
def test_kills_at_random_moments_change_no_byte() -> None:
    # It forks, and a fork of this process could not train after a test that used autograd's threads.
    command = [sys.executable, "-m", "detector.tools.bench.kill_check", "--kills", "5"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_fork_that_fails_does_not_go_on_with_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "run", Mock(side_effect=RuntimeError("no training")))
    assert kill_check._train_in_fork(tmp_path / "run", 0, lambda pid: None) == 1
