"""Two processes over gloo give the results of one: gradients, runs, evaluations. The loss of one ends the run."""

import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from detector.engine.checkpoint import load_checkpoint
from detector.metrics.dump import read_dump
from detector.tools import cli

PROGRAM = Path(__file__).with_name("gradients.py")
RELATIVE_TOLERANCE = 2e-5  # float32, sums in another order


def start(words: Sequence[str], count: int = 2) -> list[subprocess.Popen[str]]:
    """Start `python words` in `count` processes with torchrun's environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, *words],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]


def finish(processes: list[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    """Wait for the processes. Return their exit codes and outputs."""
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], outputs


@pytest.fixture(scope="module")
def two_process_gradients(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    path = tmp_path_factory.mktemp("gradients") / "two.pt"
    codes, outputs = finish(start([str(PROGRAM), str(path)]))
    assert codes == [0, 0], outputs
    content: dict[str, dict[str, Tensor]] = torch.load(path)
    return content


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        error = (found[name] - value).norm() / value.norm().clamp(min=1e-6)
        assert error < RELATIVE_TOLERANCE, (name, error)


@pytest.fixture(scope="module")
def program() -> dict[str, Any]:
    return runpy.run_path(str(PROGRAM))


@pytest.mark.parametrize("case", ["fast_rcnn/given/random", "fast_rcnn/rpn/ohem", "rfcn/given/ohem", "rfcn/rpn/random"])
def test_gradients_of_two_processes_and_of_micro_batches_equal_those_of_the_whole_batch(
    case: str, two_process_gradients: dict[str, dict[str, Tensor]], program: dict[str, Any]
) -> None:
    """The second process has no object in any image, so random sampling gives it no RoI."""
    whole = program["gradients"](program["CASES"][case], 1)
    assert_same(two_process_gradients[f"{case}/1"], whole)
    assert_same(two_process_gradients[f"{case}/2"], whole)
    assert_same(program["gradients"](program["CASES"][case], 2), whole)


def test_batch_norm_has_the_statistics_of_all_processes(
    two_process_gradients: dict[str, dict[str, Tensor]], program: dict[str, Any]
) -> None:
    assert_same(two_process_gradients["batch_norm/1"], program["gradients"](program["BATCH_NORM"]["batch_norm"], 1))


def test_two_processes_train_and_evaluate_like_one(settings: list[str], tmp_path: Path) -> None:
    """The split sizes are odd. Each detection is gathered once, in the order of the images."""
    words = [
        "train", *settings, "dataset=synthetic", "dataset.train=7", "dataset.test=5", "trainer.max_steps=4",
        "postprocess.score_threshold=0.0", "trainer.ema_decay=0.9",
    ]  # fmt: skip
    words = [word for word in words if not word.startswith(("dataset.root", "dataset.classes"))]
    codes, outputs = finish(start(["-m", "detector.tools", *words, f"output_dir={tmp_path / 'two'}"]))
    assert codes == [0, 0], outputs
    assert "2 processes" in outputs[0]
    assert outputs[1] == ""  # the other process neither logs nor draws
    assert cli.run([*words, f"output_dir={tmp_path / 'one'}"]) == 0
    one, two = (load_checkpoint(tmp_path / name) for name in ("one", "two"))
    assert two["step"] == 4
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=1e-3, atol=1e-4)

    again = ["eval", f"weights={tmp_path / 'two'}", "trainer.images_per_step=1", f"output_dir={tmp_path / 'eval'}"]
    assert cli.run(again) == 0
    gathered, alone = (read_dump(tmp_path / name / "detections.npz").detections for name in ("two", "eval"))
    assert len(gathered) > 0
    assert gathered.image_ids == alone.image_ids
    for name in ("image_index", "boxes", "scores", "labels"):
        assert np.array_equal(getattr(gathered, name), getattr(alone, name)), name


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_and_saves(settings: list[str], tmp_path: Path) -> None:
    words = ["train", *settings, f"output_dir={tmp_path}", "trainer.checkpoint_every=2", "trainer.max_steps=100000"]
    processes = start(["-m", "detector.tools", *words])
    while not (tmp_path / "checkpoints" / "last.pt").is_file():
        assert [process.poll() for process in processes] == [None, None]
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    codes, outputs = finish(processes)
    assert codes == [3, 3], outputs
    assert f"saved step {load_checkpoint(tmp_path)['step']}" in outputs[0]


STUCK = """
import time, torch
from detector.engine.distributed import any_of, process_group, rank
from detector.engine.watchdog import watchdog

def oversleep():
    time.sleep(600)

with process_group(torch.device("cpu"), 600.0), watchdog(2.0):
    if rank() == 1:
        oversleep()
    any_of(True)
"""


@pytest.mark.slow
def test_a_stuck_process_ends_the_run_and_all_stacks_are_printed() -> None:
    codes, outputs = finish(start(["-c", STUCK]))
    assert 0 not in codes
    assert "process 1 of 2 made no progress for 2 s" in outputs[1]
    assert "in oversleep" in outputs[1]
    assert "in any_of" in outputs[0]


LOST = """
import os, torch
from detector.engine.distributed import any_of, process_group, rank

try:
    with process_group(torch.device("cpu"), 60.0):
        any_of(True)
        if rank() == 1:
            os._exit(9)
        any_of(True)
except ConnectionError as error:
    print(error)
    raise SystemExit(1)
"""


def test_a_lost_process_is_reported_in_one_line() -> None:
    codes, outputs = finish(start(["-c", LOST]))
    assert codes == [1, 9]
    assert outputs[0].startswith("another process of this run was lost; read its output for the cause (")
