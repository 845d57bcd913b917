"""A run that was interrupted and resumed ends with the same bits as an uninterrupted one."""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from detector.engine.checkpoint import load_checkpoint
from detector.tools import cli

# Everything that has state or draws random numbers: running statistics, dropout, scales, flips.
STATEFUL = [
    "backbone=vgg16_bn",
    "backbone.weights=null",
    "backbone.norm=bn",
    "backbone.width=0.125",
    "backbone.dropout=0.5",
    "backbone.frozen_stages=0",
    "input.flip=true",
    "input.short_sides=[80,96]",
    "trainer.max_steps=8",
    "trainer.checkpoint_every=2",
]
RPN = ["proposals=rpn", "proposals.scales=[1,2,4]", "proposals.channels=16", "proposals.top_k_train=200"]

CLASS_LOSS = ["loss.label_smoothing=0.1", "loss.focal_gamma=1", "loss.class_balance_beta=0.9"]


def differences(first: Any, second: Any, where: str = "") -> list[str]:
    """Return the paths at which the contents of two checkpoints differ."""
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [where]
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        return [path for key in first for path in differences(first[key], second[key], f"{where}/{key}")]
    if isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        pairs = enumerate(zip(first, second, strict=True))
        return [path for index, pair in pairs for path in differences(*pair, f"{where}/{index}")]
    return [] if first == second else [where]


def state(folder: Path) -> dict[str, Any]:
    content = load_checkpoint(folder)
    return {
        key: content[key] for key in ("model", "optimizer", "schedule", "step", "best", "stale", "scaler", "average")
    }


@pytest.mark.parametrize(
    "changes",
    [
        [],
        *(
            pytest.param(words, marks=pytest.mark.slow)
            for words in (
                [*RPN, "trainer.micro_batches=2", "trainer.precision=bf16"],
                [*RPN, "trainer.precision=fp16", "trainer.micro_batches=2"],
                ["sampling=ohem", "sampling.rois_per_image=32", "head=rfcn", "head.k=3", "trainer.precision=fp16"],
                [*RPN, "proposals.box_loss=ciou", "loss.box=giou", "loss.box_weight=10", *CLASS_LOSS],
            )
        ),
        ["sampling=ohem", "sampling.rois_per_image=32", "head=rfcn", "head.k=3", "trainer.ema_decay=0.9"],
    ],
)
def test_2n_steps_equal_n_steps_and_n_resumed_steps(changes: list[str], settings: list[str], tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    words = ["train", *settings, *STATEFUL, *changes]
    assert cli.run([*words, f"output_dir={whole}", "trainer.keep_every=4"]) == 0
    (parts / "checkpoints").mkdir(parents=True)
    shutil.copy(whole / "checkpoints" / "step_0000004.pt", parts / "checkpoints" / "last.pt")
    assert load_checkpoint(parts)["step"] == 4
    assert cli.run(["train", f"resume={parts}", "trainer.workers=2"]) == 0
    assert differences(state(whole), state(parts)) == []


def test_resuming_a_finished_run_without_metrics_evaluates_it(settings: list[str], tmp_path: Path) -> None:
    words = ["train", *settings, *STATEFUL, "trainer.max_steps=2", f"output_dir={tmp_path}"]
    assert cli.run(words) == 0
    (tmp_path / "metrics.json").unlink()
    assert cli.run(["train", f"resume={tmp_path}"]) == 0
    assert (tmp_path / "metrics.json").is_file()


def start(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "detector.tools", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.is_file():
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.05)


@pytest.mark.slow
def test_a_killed_run_leaves_an_intact_checkpoint_and_can_resume(settings: list[str], tmp_path: Path) -> None:
    words = ["train", *settings, f"output_dir={tmp_path}", "trainer.checkpoint_every=1", "trainer.max_steps=10000"]
    step = 0
    for attempt in range(2):
        process = start(words if attempt == 0 else ["train", f"resume={tmp_path}"])
        last = tmp_path / "checkpoints" / "last.pt"
        try:
            if attempt:
                before = last.stat().st_mtime_ns
                while last.stat().st_mtime_ns == before:
                    assert process.poll() is None
                    time.sleep(0.05)
            else:
                wait_for(last, process)
            time.sleep(random.uniform(0, 0.5))
        finally:
            process.kill()
            process.communicate()
        reached = load_checkpoint(tmp_path)["step"]
        assert reached > step
        step = reached
    assert cli.run(["train", f"resume={tmp_path}", f"trainer.max_steps={step + 1}"]) == 0
    assert load_checkpoint(tmp_path)["step"] == step + 1


@pytest.mark.slow
def test_sigterm_saves_and_exits_with_code_3(settings: list[str], tmp_path: Path) -> None:
    process = start(["train", *settings, f"output_dir={tmp_path}", "trainer.checkpoint_every=5", "trainer.workers=1"])
    try:
        wait_for(tmp_path / "checkpoints" / "last.pt", process)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 3, output
    step = load_checkpoint(tmp_path)["step"]
    assert f"SIGTERM: saved step {step}" in output
    assert "Traceback" not in output
