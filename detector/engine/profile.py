"""Profiles training steps with torch's profiler: writes a trace and a table of the most expensive operators."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from detector.structures import Batch

log = logging.getLogger("detector")

WARM_UP = 5  # steps before the trace, which allocate memory and choose algorithms
ROWS = 40


def profiled(
    batches: Iterable[Batch], num_steps: int, folder: Path, device: torch.device
) -> Generator[Batch, None, None]:
    """Yield the batches and trace `num_steps` steps. A step is what the caller does between two batches.

    Writes to `folder`: trace.json, for chrome://tracing or ui.perfetto.dev, and table.txt, the slowest operators.
    If the run ends earlier, it writes the steps so far when the generator is closed.
    """
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    profiler = None
    try:
        for number, batch in enumerate(batches):
            if num_steps > 0 and number == WARM_UP:
                profiler = profile(activities=activities, acc_events=True)  # without, torch 2.11 warns
                profiler.start()
            if profiler is not None and number == WARM_UP + num_steps:
                _write(profiler, folder, device)
                profiler = None
            yield batch
    finally:
        if profiler is not None:
            _write(profiler, folder, device)


def _write(profiler: profile, folder: Path, device: torch.device) -> None:
    profiler.stop()
    folder.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(folder / "trace.json"))
    table = profiler.key_averages().table(sort_by=f"self_{device.type}_time_total", row_limit=ROWS)
    (folder / "table.txt").write_text(table)
    log.info("profile in %s", folder)
