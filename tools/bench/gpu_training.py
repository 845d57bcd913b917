"""Trains on a GPU, measures the speed and checks the results: the parts of `make gpu-check` that train.

Each part trains `experiment=rfcn_rendered_voc07` on a VOCdevkit folder (a rendered one) or on the synthetic data set.
Images have the full size of VOC, 600 pixels on the shorter side.

- bf16: images per second, the share of time spent waiting for data, GPU utilisation and peak memory;
- resume: the second half of a deterministic run is repeated from its checkpoint and must end with the same bits;
- fp16: the loss scale falls until the gradients are finite, and a checkpoint contains it;
- compile: a step with torch.compile is compared with a step without.

Each part prints its measurements as one JSON object in the last line of its output.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detector.configs.compose import load_config
from detector.configs.schema import Config
from detector.engine.checkpoint import load_checkpoint
from detector.engine.compile import compile_parts
from detector.engine.gradients import accumulate_gradients
from detector.engine.monitor import Monitor
from detector.engine.trainer import TrainingState, train
from detector.pipeline.data import Data, open_data
from detector.pipeline.state import initialise, new_detector, new_state
from detector.pipeline.training import loop_settings, prepare_device, training_batches
from detector.structures import Batch
from detector.tools.bench.interleaved import interleaved, milliseconds, ratio
from detector.tools.bench.kill_check import differences

EXPERIMENT = "rfcn_rendered_voc07"
SIZE = ["input.short_sides=[600]", "input.test_short_side=600", "input.max_side=1000"]
# Images of VOC's usual size; few, so that the processes draw them quickly.
SYNTHETIC = ["dataset=synthetic", "dataset.train=200", "dataset.test=2", "dataset.height=375", "dataset.width=500"]
WARM_UP = 20  # steps that are not measured: first allocations, choice of algorithms, start of the loaders
REPORT_EVERY = 20.0  # seconds
LARGE_SCALE = 2.0**40  # a loss scale at which gradients of fp16 are infinite

Figures = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Run one part and print its measurements. Return 1 if the check fails."""
    options = _options(arguments)
    parts: dict[str, Callable[[argparse.Namespace], tuple[bool, Figures]]] = {
        "bf16": measure_speed,
        "resume": check_resume,
        "fp16": check_scaler,
        "compile": compare_compiled,
    }
    passed, figures = parts[options.part](options)
    print(json.dumps(figures))
    return 0 if passed else 1


class Run:
    """A training in a folder, with its data and its state."""

    def __init__(self, options: argparse.Namespace, name: str, overrides: list[str], step: Path | None = None) -> None:
        """`step` is the checkpoint to resume from; with None the run starts from the beginning."""
        self.folder: Path = options.folder / name
        self.config = load_config([*_settings(options), *overrides])
        self.device = prepare_device(self.config.trainer)
        self.data: Data = open_data(self.config, None)
        detector = new_detector(self.config, self.data, self.device)
        self.state: TrainingState = new_state(self.config, self.data, detector, self.device)
        if step is None:
            initialise(self.state.detector, self.config, self.data)
        else:
            self.state.load(load_checkpoint(step), str(step))

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / "checkpoints"

    def train(self, watch: Callable[[Iterator[Batch]], Iterator[Batch]] = lambda batches: batches) -> None:
        """Train to the end of the config or of the batches, which pass through `watch`. There is no evaluation."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        settings = self.config.trainer
        monitor = Monitor(
            self.folder / "tensorboard",
            first_step=self.state.step,
            max_steps=settings.max_steps,
            log_every=settings.log_every,
        )
        with training_batches(self.config, self.data, self.device, self.state.step, endless=False) as batches:
            train(
                self.state,
                watch(batches),
                loop_settings(self.config, since_start=0.0),
                device=self.device,
                monitor=monitor,
                evaluate=lambda step: 0.0,
                checkpoints=self.checkpoints,
            )
        monitor.close()


def measure_speed(options: argparse.Namespace) -> tuple[bool, Figures]:
    """Measure the speed of training in bf16, for `options.seconds` after the warm-up."""
    run = Run(options, "bf16", ["trainer.precision=bf16", "trainer.max_steps=1000000"])
    meter = Meter(run.device, options.seconds)
    with Utilisation(run.device) as utilisation:

        def report() -> Figures:
            return {
                **_circumstances(options, run.config),
                **meter.figures(),
                "GPU utilisation, %": utilisation.mean(),
            }

        meter.begin = utilisation.readings.clear
        meter.report = lambda: print(json.dumps(report()), flush=True)
        run.train(meter.watch)
        figures = report()
    return meter.images > 0 and _finite(run.state), figures


@dataclass(slots=True)
class Meter:
    """Counts images and the time that the training waits for them, after the warm-up."""

    device: torch.device
    seconds: float  # to measure; then `watch` yields no more batches
    images: int = 0
    steps: int = 0
    waited: float = 0.0
    started: float = 0.0
    taken: float = 0.0
    begin: Callable[[], None] = lambda: None  # called at the end of the warm-up
    report: Callable[[], None] = lambda: None  # called every REPORT_EVERY seconds

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches and measure; each step runs between two batches."""
        reported = time.perf_counter()
        number, images = 0, 0
        while True:
            before = time.perf_counter()
            batch = next(batches, None)
            now = time.perf_counter()
            if number == WARM_UP:
                self._synchronize()
                self.begin()
                self.started = time.perf_counter()
            elif number > WARM_UP:
                self.steps, self.images = self.steps + 1, self.images + images
                self.waited += now - before
                self.taken = now - self.started
                if now - reported > REPORT_EVERY:
                    self.report()
                    reported = now
                if self.taken >= self.seconds:
                    break
            if batch is None:
                break
            number, images = number + 1, len(batch)
            yield batch
        if self.steps:
            self._synchronize()
            self.taken = time.perf_counter() - self.started

    def figures(self) -> Figures:
        """Return the speed, the wait for data and the memory, by name."""
        seconds = max(self.taken, 1e-9)
        figures: Figures = {
            "images/s": round(self.images / seconds, 1),
            "steps": self.steps,
            "seconds": round(self.taken, 1),
            "waiting for data, %": round(100 * self.waited / seconds, 2),
        }
        if self.device.type == "cuda":
            figures["peak memory allocated, GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
            figures["peak memory reserved, GiB"] = round(torch.cuda.max_memory_reserved() / 2**30, 2)
        return figures

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class Utilisation:
    """The share of time in which the GPU runs a kernel, read from nvidia-smi every second during a `with` block."""

    def __init__(self, device: torch.device) -> None:
        self.readings: list[float] = []  # in percent; none on a CPU or without nvidia-smi
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(device,), daemon=True)

    def __enter__(self) -> Utilisation:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def mean(self) -> float | None:
        """The mean of the readings so far; None if there are none."""
        return round(statistics.fmean(self.readings), 1) if self.readings else None

    def _read(self, device: torch.device) -> None:
        if device.type != "cuda":
            return
        uuid = torch.cuda.get_device_properties(device).uuid
        query = ["nvidia-smi", f"--id=GPU-{uuid}", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        with suppress(OSError, subprocess.SubprocessError, ValueError):  # nvidia-smi is missing or has no reading
            while not self._over.wait(1.0):
                percent = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
                self.readings.append(float(percent))


def check_resume(options: argparse.Namespace) -> tuple[bool, Figures]:
    """Check that the second half of a deterministic run, repeated from its checkpoint, ends with the same bits."""
    settings = [
        "trainer.deterministic=true",
        "trainer.precision=bf16",
        f"trainer.max_steps={2 * options.steps}",
        f"trainer.keep_every={options.steps}",
    ]
    whole = Run(options, "whole", settings)
    whole.train()
    middle = whole.checkpoints / f"step_{options.steps:07d}.pt"
    resumed = Run(options, "resumed", [*settings, "trainer.workers=1"], middle)
    resumed.train()
    different = differences(*(load_checkpoint(run.checkpoints / "last.pt") for run in (whole, resumed)))
    figures = {
        **_circumstances(options, whole.config),
        "steps done again": options.steps,
        "values that differ": len(different),
        "the first of them": ", ".join(different[:5]) or "none",
    }
    return not different and resumed.state.step == 2 * options.steps, figures


def check_scaler(options: argparse.Namespace) -> tuple[bool, Figures]:
    """Check fp16: the loss scale falls from a far too large value, training goes on, and a checkpoint has the scale."""
    settings = ["trainer.precision=fp16", f"trainer.max_steps={2 * options.steps}"]
    run = Run(options, "fp16", settings)
    run.state.scaler = torch.amp.GradScaler(run.device.type, init_scale=LARGE_SCALE)
    before = [parameter.detach().clone() for parameter in run.state.detector.parameters()]
    run.train()
    scale = run.state.scaler.get_scale()
    learned = sum(not torch.equal(old, new) for old, new in zip(before, run.state.detector.parameters(), strict=True))
    again = Run(options, "fp16", settings, run.checkpoints / "last.pt").state.scaler.get_scale()
    figures = {
        **_circumstances(options, run.config),
        "loss scale at first": LARGE_SCALE,
        "loss scale at last": scale,
        "loss scale in the checkpoint": again,
        "parameters that have changed": learned,
        "all parameters are finite": _finite(run.state),
    }
    return 0 < scale < LARGE_SCALE and again == scale and learned > 0 and _finite(run.state), figures


def compare_compiled(options: argparse.Namespace) -> tuple[bool, Figures]:
    """Compare a bf16 step with torch.compile and a step without, on the same batch, in turn."""
    runs = [
        Run(options, name, ["trainer.precision=bf16", "input.canvas_multiple=128"]) for name in ("eager", "compiled")
    ]
    compile_parts(runs[1].state.detector)
    with training_batches(runs[0].config, runs[0].data, runs[0].device, 0, endless=False) as batches:
        batch = next(batches).to(runs[0].device)
    start = time.perf_counter()
    losses = [_step(run, batch) for run in runs]
    seconds = time.perf_counter() - start
    eager, compiled = (lambda run=run: _step(run, batch) for run in runs)
    times = interleaved({"eager": eager, "compiled": compiled}, options.rounds, runs[0].device)
    figures = {
        **_circumstances(options, runs[0].config),
        "seconds of the first two steps, with compiling": round(seconds, 1),
        "eager step, ms": round(milliseconds(times["eager"]), 2),
        "compiled step, ms": round(milliseconds(times["compiled"]), 2),
        "eager / compiled": round(ratio(times["eager"], times["compiled"]), 3),
        "first loss, eager and compiled": [round(loss, 4) for loss in losses],
    }
    return abs(losses[0] - losses[1]) <= 0.05 * abs(losses[0]), figures


def _step(run: Run, batch: Batch) -> float:
    """Run one step without logging and saving. Return the loss before the step."""
    run.state.detector.train()
    torch.manual_seed(0)  # the same samples for both
    run.state.optimizer.zero_grad(set_to_none=True)
    losses = accumulate_gradients(
        run.state.detector,
        batch,
        micro_batches=1,
        scaler=run.state.scaler,
        device=run.device,
        precision=run.config.trainer.precision,
    )
    run.state.optimizer.step()
    return losses.total().item()


def _finite(state: TrainingState) -> bool:
    return all(bool(parameter.isfinite().all()) for parameter in state.detector.parameters())


def _settings(options: argparse.Namespace) -> list[str]:
    """The overrides that all parts share."""
    data = ["dataset=voc", f"dataset.root={options.voc}"] if options.voc else SYNTHETIC
    workers = max(1, min(8, (os.cpu_count() or 1) - 2))
    return [
        f"experiment={EXPERIMENT}",
        *data,
        *SIZE,
        f"trainer.workers={workers}",
        "trainer.eval_every=0",
        f"trainer.device={options.device}",
        *options.set,
    ]


def _circumstances(options: argparse.Namespace, config: Config) -> Figures:
    return {
        "experiment": " ".join([EXPERIMENT, *SIZE, *options.set]),
        "data": "VOCdevkit" if options.voc else "synthetic",
        "images a step": config.trainer.images_per_step,
        "workers": config.trainer.workers,
        "precision": config.trainer.precision,
    }


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gpu_training", description=__doc__)
    parser.add_argument("part", choices=("bf16", "resume", "fp16", "compile"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--voc", type=Path, help="VOCdevkit folder to train on (default: the synthetic data set)")
    parser.add_argument("--folder", type=Path, default=Path("build/gpu/runs"), help="folder of the runs")
    parser.add_argument("--seconds", type=float, default=180.0, help="for bf16, after the warm-up (default 180)")
    parser.add_argument("--steps", type=int, default=50, help="in half a run of resume and fp16 (default 50)")
    parser.add_argument("--rounds", type=int, default=20, help="for compile (default 20)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further settings")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
