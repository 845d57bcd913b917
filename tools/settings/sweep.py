"""`detector train --multirun`: every combination in a folder of its own, and one table of how they ended."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from detector.engine.checkpoint import write_atomically
from detector.pipeline.resume import find_start, value_of

log = logging.getLogger("detector")

OUTCOMES = {0: "done", 1: "failed", 2: "refused", 3: "stopped", 4: "loss not finite"}
STOPPED = 3


@dataclass(frozen=True, slots=True)
class Job:
    """One combination of a sweep."""

    folder: Path
    overrides: list[str]  # without the folder
    varied: dict[str, str]  # those of its settings that differ within the sweep


def plan(combinations: Sequence[Sequence[str]]) -> list[Job]:
    """The jobs of a sweep, each checked as a whole before any runs. Raises ConfigError for one that cannot be."""
    parent = Path(value_of("output_dir", combinations[0]) or "runs/sweep")
    jobs = []
    for number, words in enumerate(combinations):
        rest = [word for word in words if not word.startswith("output_dir=")]
        varied = {key: value for key, _, value in (word.partition("=") for word in rest) if _varies(key, combinations)}
        jobs.append(Job(parent / str(number), rest, varied))
    for job in jobs:
        if value_of("resume", job.overrides) is None:
            find_start(job.overrides)
    return jobs


def run_sweep(combinations: Sequence[Sequence[str]], train: Callable[[list[str]], int]) -> int:
    """Runs `train` on every combination; one that fails does not keep the others from running, a signal does.

    Leaves summary.txt and summary.json in the sweep's folder and TensorBoard's hparams in each run's. Returns the first
    exit code that is not 0.
    """
    jobs = plan(combinations)
    parent, rows, first_bad = jobs[0].folder.parent, [], 0
    for number, job in enumerate(jobs):
        told = " ".join(f"{key}={value}" for key, value in job.varied.items())
        log.warning("sweep %d/%d: %s", number + 1, len(jobs), told)
        code = train([*job.overrides, f"output_dir={job.folder}"])
        first_bad = first_bad or code
        figures = _figures(job.folder) if code == 0 else {}
        rows.append({"run": job.folder.name, **job.varied, "outcome": OUTCOMES.get(code, f"exit {code}"), **figures})
        if figures:
            _write_hparams(job, figures)
        _write(parent, rows)
        if code == STOPPED:
            break
    log.warning("\n%s\nsummary in %s", table(rows), parent / "summary.txt")
    return first_bad


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as aligned columns; numbers to the right."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in [names, *cells]) for i in range(len(names))]
    right = [all(isinstance(row.get(name, 0), int | float) for row in rows) for name in names]
    columns = list(zip(widths, right, strict=True))
    return "\n".join(
        "  ".join(
            f"{cell:{'>' if number else '<'}{width}}" for cell, (width, number) in zip(line, columns, strict=True)
        )
        for line in [names, *cells]
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _varies(key: str, combinations: Sequence[Sequence[str]]) -> bool:
    return len({value_of(key, words) for words in combinations}) > 1


def _figures(folder: Path) -> dict[str, float | int]:
    """The main figures of a run's metrics.json: its mAP by protocol, the minutes and steps that it took."""
    metrics = json.loads((folder / "metrics.json").read_text())
    means = {name: value.get("mAP") for name, value in metrics.items() if isinstance(value, dict)}
    means |= {name: metrics.get(name) for name in ("minutes", "step")}
    return {name: value for name, value in means.items() if isinstance(value, int | float)}


def _write(parent: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_atomically(parent / "summary.txt", lambda file: file.write((table(rows) + "\n").encode()))
    write_atomically(parent / "summary.json", lambda file: file.write((json.dumps(rows, indent=2) + "\n").encode()))


def _write_hparams(job: Job, figures: dict[str, float | int]) -> None:
    """The run's row on TensorBoard's page of hyperparameters."""
    with SummaryWriter(str(job.folder / "tensorboard")) as writer:
        finite = {f"hparam/{name}": value for name, value in figures.items() if math.isfinite(value)}
        writer.add_hparams(dict(job.varied), finite, run_name=".")
