"""Interleaved timing: contestants run in turn, so a disturbance affects all of them. Ratios are medians of rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def interleaved(
    contestants: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Run the contestants in turn and return the seconds of each call, without the first round, which warms up."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number > 0:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(over: list[float], under: list[float]) -> float:
    """The median of the ratios within a round. Other load on the machine disturbs it least."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def milliseconds(seconds: list[float]) -> float:
    """The median, in milliseconds."""
    return 1e3 * statistics.median(seconds)
