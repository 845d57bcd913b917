"""Training from Python: the same plan, loop, run folder and report as `detector train data=FOLDER`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from detector.configs.written import written

if TYPE_CHECKING:
    from detector.pipeline.predictor import Predictor
    from detector.pipeline.resume import Start


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
        from detector.pipeline.predictor import load_detector

        return load_detector(self.path)


def train(
    folder: str | Path | None = None,
    *,
    minutes: float | None = None,
    output_dir: str | Path | None = None,
    resume: str | Path | None = None,
    settings: Mapping[str, Any] | Sequence[str] | None = None,
) -> Run:
    """Train a detector on the photographs in `folder`, or resume the run in the folder `resume`.

    With a folder, an `output_dir` and resume="auto", the same call starts a run or resumes it.

    Without `minutes` the plan chooses the number of epochs. The plan does not change the keys in `settings`, for
    example {"head": "rfcn", "trainer.seed": 7} or ["head=rfcn", "trainer.seed=7"]. Ctrl-C saves and returns a run that
    is not finished. A finished run has a report in `path`, analysis.html, and the portable model model.safetensors.

    Raises ConfigError for invalid settings, ValueError for invalid data, TypeError for a folder that is not a path.
    """
    started = time.monotonic()
    if (folder is None) == (resume is None) and resume != "auto":
        given = "neither" if folder is None else "both"
        raise ValueError(f"expected a folder of photographs or resume=FOLDER of a run, got {given}; give one of them")
    if not isinstance(folder, (str, Path, NoneType)):
        raise TypeError(f"expected the path of a folder of photographs, got {type(folder).__name__}")
    words = _words(settings or {})
    if minutes is not None:
        words.append(f"trainer.max_minutes={minutes}")
    if output_dir is not None:
        words.append(f"output_dir={output_dir}")
    from detector.engine.trainer import Outcome
    from detector.pipeline.planned_training import run_planned_training
    from detector.pipeline.resume import find_planned_start, find_start
    from detector.tools.commands.train import finish_run, resume_run

    start: Start | None = None
    if folder is None:
        start = find_start([f"resume={resume}", *words])
    elif resume is not None:
        start = find_planned_start(str(folder), words)
    if start is not None:
        outcome, run = resume_run(start)
    else:
        outcome, run = run_planned_training(str(folder), words, started=started, finish=finish_run)
    return Run(run.path, outcome is Outcome.done)


def _words(settings: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Return the settings as on a command line."""
    if isinstance(settings, Mapping):
        return [f"{key}={written(value)}" for key, value in settings.items()]
    return [settings] if isinstance(settings, str) else list(settings)
