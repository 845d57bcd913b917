"""The parts of `make gpu-check` that train, on the CPU with a small network: their figures, and what they refuse."""

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
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda asked: None)  # it would last beyond the test


def run(capsys: pytest.CaptureFixture[str], folder: Path, part: str, *more: str) -> tuple[int, dict]:
    code = gpu_training.main([part, "--device", "cpu", "--folder", str(folder), *more, "--set", *SMALL])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_speed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, figures = run(capsys, tmp_path, "bf16", "--seconds", "0.1")
    assert code == 0
    assert figures["images/s"] > 0
    assert figures["steps"] >= 1
    assert figures["seconds"] >= 0.1
    assert 0 <= figures["waiting for data, %"] <= 100
    assert figures["GPU utilisation, %"] is None


def test_a_resumed_run_has_the_same_bits(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, figures = run(capsys, tmp_path, "resume", "--steps", "1")
    assert (code, figures["steps done again"], figures["values that differ"]) == (0, 1, 0)


def test_a_resumed_run_of_other_bits_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Trained:
        """A run of two steps, whose last checkpoint holds its folder's name."""

        def __init__(self, options: argparse.Namespace, name: str, *_: object) -> None:
            self.checkpoints, self.config = tmp_path / name, load_config([])
            self.state = argparse.Namespace(step=2)

        def train(self) -> None: ...

    monkeypatch.setattr(gpu_training, "Run", Trained)
    monkeypatch.setattr(gpu_training, "load_checkpoint", lambda path: {"model": {"bias": path.parent.name}})
    code, figures = run(capsys, tmp_path, "resume", "--steps", "1")
    assert (code, figures["the first of them"]) == (1, "model.bias")


@pytest.mark.slow
def test_the_loss_scale_falls_and_is_saved(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, figures = run(capsys, tmp_path, "fp16", "--steps", "5")
    assert code == 0
    assert figures["loss scale at last"] == figures["loss scale in the checkpoint"] < 2**24
    assert figures["parameters that have changed"] > 0


@pytest.mark.slow
def test_a_compiled_step_beside_an_eager_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, figures = run(capsys, tmp_path, "compile", "--rounds", "1")
    assert code == 0
    assert figures["compiled step, ms"] > 0
    assert len(set(figures["first loss, eager and compiled"])) == 1
