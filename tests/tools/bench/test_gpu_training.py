"""The training parts of `make gpu-check`, on the CPU with a small network: their results and their refusals."""

import argparse
import json
from pathlib import Path

import pytest
import torch

from detector.configs.compose import load_config
from detector.tools.bench import gpu_training

SMALL = [
    "input.short_sides=[64]",
    "input.test_short_side=64",
    "input.max_side=96",
    "dataset.height=64",
    "dataset.width=96",
    "dataset.train=8",
    "trainer.workers=0",
    "trainer.images_per_step=2",
    "backbone.width=0.125",
    "head.channels=32",
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_training, "WARM_UP", 1)
    monkeypatch.setattr(gpu_training, "LARGE_SCALE", 2.0**24)
    monkeypatch.setattr(gpu_training, "compile_parts", lambda detector: None)  # takes a minute on a CPU
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode: None)  # it would outlast the test


def run(capsys: pytest.CaptureFixture[str], folder: Path, part: str, *more: str) -> tuple[int, dict]:
    code = gpu_training.main([part, "--device", "cpu", "--folder", str(folder), *more, "--set", *SMALL])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_speed_of_training_is_measured(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, results = run(capsys, tmp_path, "bf16", "--seconds", "0.1")
    assert code == 0
    assert results["images/s"] > 0
    assert results["steps"] >= 1
    assert results["seconds"] >= 0.1
    assert 0 <= results["waiting for data, %"] <= 100
    assert results["GPU utilisation, %"] is None


def test_a_resumed_run_has_the_same_bits(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, results = run(capsys, tmp_path, "resume", "--steps", "1")
    assert (code, results["steps done again"], results["values that differ"]) == (0, 1, 0)


def test_a_resumed_run_with_other_bits_fails_the_check(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Trained:
        """A run of two steps. Its last checkpoint holds the name of its folder."""

        def __init__(self, options: argparse.Namespace, name: str, *_: object) -> None:
            self.checkpoints, self.config = tmp_path / name, load_config([])
            self.state = argparse.Namespace(step=2)

        def train(self) -> None: ...

    monkeypatch.setattr(gpu_training, "Run", Trained)
    monkeypatch.setattr(gpu_training, "load_checkpoint", lambda path: {"model": {"bias": path.parent.name}})
    code, results = run(capsys, tmp_path, "resume", "--steps", "1")
    assert (code, results["the first of them"]) == (1, "model.bias")


@pytest.mark.slow
def test_the_loss_scale_falls_and_is_saved(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, results = run(capsys, tmp_path, "fp16", "--steps", "5")
    assert code == 0
    assert results["loss scale at last"] == results["loss scale in the checkpoint"] < 2**24
    assert results["parameters that have changed"] > 0


@pytest.mark.slow
def test_a_compiled_and_an_eager_step_are_compared(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, results = run(capsys, tmp_path, "compile", "--rounds", "1")
    assert code == 0
    assert results["compiled step, ms"] > 0
    assert len(set(results["first loss, eager and compiled"])) == 1
