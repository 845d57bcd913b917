"""Training from Python: the same plan, loop and run folder as `detector train data=FOLDER`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from detector.engine.checkpoint import load_checkpoint
from detector.engine.trainer import Outcome
from detector.pipeline.planned_training import run_planned_training
from detector.pipeline.predictor import Predictor, load_detector
from detector.pipeline.resume import find_start
from detector.pipeline.run_folder import all_processes, logging_to, open_run
from detector.pipeline.training import run_training


@dataclass(frozen=True)
class Run:
    """A training and its folder."""

    path: Path
    finished: bool  # False: stopped by Ctrl-C or SIGTERM, after saving

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The last evaluation's figures, as metrics.json has them; empty before the first."""
        path = self.path / "metrics.json"
        content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        return content

    @cached_property
    def model(self) -> Predictor:
        """The trained detector, ready for pictures."""
        return load_detector(self.path)


def train(
    folder: str | Path | None = None,
    *,
    minutes: float | None = None,
    output_dir: str | Path | None = None,
    resume: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Run:
    """Trains a detector on the photographs in `folder`, or goes on with the run in the folder `resume`.

    Without `minutes` the plan's epochs count. `settings` are keys and values of the configuration that the plan must
    leave alone: {"head": "rfcn", "trainer.seed": 7}. Ctrl-C saves and returns a run that is not finished.

    Raises ConfigError for settings, ValueError for data, that cannot be used.
    """
    words = [f"{key}={_word(value)}" for key, value in (settings or {}).items()]
    if minutes is not None:
        words.append(f"trainer.max_minutes={minutes}")
    if (folder is None) == (resume is None):
        raise ValueError("train needs a folder of photographs, or resume=FOLDER of a run")
    if resume is not None:
        return _go_on([f"resume={resume}", *words])
    if output_dir is not None:
        words.append(f"output_dir={output_dir}")
    outcome, run = run_planned_training(str(folder), words, started=time.monotonic())
    return Run(run.path, outcome is Outcome.done)


def _go_on(words: list[str]) -> Run:
    start = find_start(words)
    with all_processes(start.config.trainer):
        run = open_run(start.config.output_dir, "train")
        with logging_to(run.path / "log.txt"):
            outcome = run_training(start.config, run, start.checkpoint or load_checkpoint(run.path))
    return Run(run.path, outcome is Outcome.done)


def _word(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_word, value))}]"
    return str(value)
