"""`make kill-check`: kills trainings with SIGKILL at random times, and compares their results with an undisturbed run.

A killed run is started again. Each start is a fork of this process, which has imported all modules, so training begins
soon. It continues with `resume=auto` and 0 to 2 loader workers. When a run ends, all its checkpoints (last, best, and
those kept by step) are compared byte by byte, by tensor. Then the next run begins, until there were enough kills.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from detector.engine.checkpoint import load_checkpoint
from detector.pipeline import training as _training  # noqa: F401  # imported once, before the forks
from detector.pipeline.versions import commit, cpu_name
from detector.tools import cli
from detector.tools.settings.exit_codes import DONE

STEPS = 40
COMPARED = ("step", "best", "stale", "evaluated", "model", "optimizer", "schedule", "scaler", "average")
# All state that a resume could lose: running statistics, dropout, flips, scales, averaged weights, micro-batches.
SETTINGS = [
    "dataset=synthetic",
    "dataset.train=8",
    "dataset.test=2",
    "dataset.height=64",
    "dataset.width=96",
    "backbone=vgg16_bn",
    "backbone.weights=null",
    "backbone.norm=bn",
    "backbone.width=0.0625",
    "backbone.tail_channels=32",
    "backbone.frozen_stages=0",
    "proposals=rpn",
    "proposals.scales=[1,2,4]",
    "proposals.channels=16",
    "proposals.top_k_train=100",
    "sampling=ohem",
    "sampling.rois_per_image=32",
    "input.short_sides=[48,64]",
    "input.test_short_side=64",
    "optimizer.lr=0.01",
    "optimizer.clip_norm=10",
    f"trainer.max_steps={STEPS}",
    "trainer.images_per_step=2",
    "trainer.micro_batches=2",
    "trainer.ema_decay=0.9",
    "trainer.threads=1",
    "trainer.device=cpu",
    "trainer.checkpoint_every=2",
    "trainer.keep_every=8",
    "trainer.keep_newest=2",
    "trainer.eval_every=10",
    "trainer.eval_images=0",
]


@dataclass(slots=True)
class Tally:
    """Counts over all runs."""

    kills: int = 0
    during_write: int = 0  # kills that left a half-written file
    runs: int = 0
    different: list[str] = field(default_factory=list)  # tensors with different bytes, by run


def main(arguments: list[str] | None = None) -> int:
    """Return 0 if every run ended with the same bytes as the undisturbed run."""
    options = _options(arguments)
    torch.set_num_threads(1)
    rng = random.Random(options.seed)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begun = time.monotonic()
        if _train_in_fork(folder / "whole", 0, lambda pid: None) != DONE:
            print((folder / "whole" / "output.txt").read_text(), file=sys.stderr)
            return 1
        length = time.monotonic() - begun
        expected, tally = _checkpoints(folder / "whole"), Tally()
        while tally.kills < options.kills:
            run = folder / f"run{tally.runs}"
            while not _killed_run_is_done(run, rng, length, tally, options.kills):
                pass
            tally.runs += 1
            found = _checkpoints(run)
            tally.different += [f"run {tally.runs}: {key}" for key in _differences(expected, found, "checkpoints")]
    minutes = (time.monotonic() - started) / 60
    print(
        f"{tally.kills} kills in {tally.runs} runs of {STEPS} steps, {tally.during_write} of them while a file was "
        f"being written: {len(tally.different)} tensors or values differ from the undisturbed run "
        f"({minutes:.1f} min, seed {options.seed}, commit {commit()}, torch {torch.__version__}, {cpu_name()})"
    )
    print("\n".join(tally.different[:20]))
    return 1 if tally.different else 0


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """The names of the values of two checkpoints that differ in any bit."""
    return [path for key in COMPARED for path in _differences(first.get(key), second.get(key), key)]


def _checkpoints(run: Path) -> dict[str, dict[str, Any]]:
    """The compared values of each checkpoint of a run, by file name."""
    return {
        path.name: {key: content.get(key) for key in COMPARED}
        for path in sorted((run / "checkpoints").iterdir())
        for content in [load_checkpoint(path)]
    }


def _differences(first: Any, second: Any, where: str) -> list[str]:
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        same = first.dtype == second.dtype and first.shape == second.shape
        return [] if same and first.numpy().tobytes() == second.numpy().tobytes() else [where]
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        return [path for key in first for path in _differences(first[key], second[key], f"{where}.{key}")]
    if isinstance(first, list | tuple) and isinstance(second, list | tuple) and len(first) == len(second):
        pairs = enumerate(zip(first, second, strict=True))
        return [path for index, pair in pairs for path in _differences(*pair, f"{where}.{index}")]
    return [] if first == second else [where]


def _killed_run_is_done(run: Path, rng: random.Random, length: float, tally: Tally, kills: int) -> bool:
    """Start a run and kill it at a random time, unless there are enough kills. Return whether the run is complete."""
    delay, must_kill = rng.uniform(0, length / 2), tally.kills < kills

    def wait_and_kill(pid: int) -> None:
        end = time.monotonic() + delay
        while time.monotonic() < end and must_kill:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return
            time.sleep(0.001)
        if must_kill:
            os.kill(pid, signal.SIGKILL)

    code = _train_in_fork(run, rng.randrange(3), wait_and_kill)
    if code not in (DONE, -signal.SIGKILL):
        raise RuntimeError(f"a run ended with exit code {code}:\n{(run / 'output.txt').read_text()}")
    if code == -signal.SIGKILL:
        tally.kills += 1
        tally.during_write += any((run / "checkpoints").glob(".*.tmp"))
    return code == DONE


def _train_in_fork(run: Path, workers: int, meanwhile: Callable[[int], None]) -> int:
    """Train in a fork of this process until it ends or `meanwhile` kills it. Return its exit code."""
    run.mkdir(exist_ok=True)
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        output = os.open(run / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        words = [*SETTINGS, f"trainer.workers={workers}", f"output_dir={run}", "resume=auto"]
        code = 1
        try:
            code = cli.run(["train", *words])
        except BaseException:
            traceback.print_exc()
        finally:  # the fork must not go on with the caller's program
            os._exit(code)
    meanwhile(pid)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="kill_check", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="seed of the random times")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
