"""Training from Python: the same plan, loop and run folder as `detector train data=FOLDER`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from detector.configs.written import written
from detector.engine.checkpoint import load_checkpoint
from detector.engine.trainer import Outcome
from detector.pipeline.planned_training import run_planned_training
from detector.pipeline.predictor import Predictor, load_detector
from detector.pipeline.resume import find_start
from detector.pipeline.run_folder import all_processes, logged_run
from detector.pipeline.training import run_training


@dataclass(frozen=True)
class Run:
    """A training run and its folder."""

    path: Path
    finished: bool  # False: Ctrl-C or SIGTERM stopped the run, after saving

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The scores of the last evaluation, from metrics.json; empty before the first evaluation."""
        path = self.path / "metrics.json"
        content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        return content

    @cached_property
    def model(self) -> Predictor:
        """The trained detector, ready to predict."""
        return load_detector(self.path)


def train(
    folder: str | Path | None = None,
    *,
    minutes: float | None = None,
    output_dir: str | Path | None = None,
    resume: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Run:
    """Train a detector on the photographs in `folder`, or resume the run in the folder `resume`.

    Without `minutes` the plan chooses the number of epochs. The plan does not change the keys in `settings`, for
    example {"head": "rfcn", "trainer.seed": 7}. Ctrl-C saves and returns a run that is not finished.

    Raises ConfigError for invalid settings, ValueError for invalid data.
    """
    words = [f"{key}={written(value)}" for key, value in (settings or {}).items()]
    if minutes is not None:
        words.append(f"trainer.max_minutes={minutes}")
    if (folder is None) == (resume is None):
        given = "neither" if folder is None else "both"
        raise ValueError(f"expected a folder of photographs or resume=FOLDER of a run, got {given}; give one of them")
    if resume is not None:
        return _resume([f"resume={resume}", *words])
    if output_dir is not None:
        words.append(f"output_dir={output_dir}")
    outcome, run = run_planned_training(str(folder), words, started=time.monotonic())
    return Run(run.path, outcome is Outcome.done)


def _resume(words: list[str]) -> Run:
    start = find_start(words)
    with all_processes(start.config.trainer), logged_run(start.config.output_dir, "train") as run:
        outcome = run_training(start.config, run, start.checkpoint or load_checkpoint(run.path))
    return Run(run.path, outcome is Outcome.done)
