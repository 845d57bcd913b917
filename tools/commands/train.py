"""`detector train`: one training in a folder of its own."""

from __future__ import annotations

from detector.configs.choices import choices
from detector.engine.trainer import Outcome
from detector.pipeline.run_folder import all_processes, logging_to, open_run
from detector.pipeline.training import check_learning_rate, run_training
from detector.tools.settings.application import Task
from detector.tools.settings.exit_codes import DONE, INTERRUPTED


def train(task: Task) -> int:
    """Trains and returns the exit code."""
    with all_processes(task.config.trainer):
        folder = open_run(str(task.folder), "train")
        with logging_to(folder.path / "log.txt"):
            if task.checkpoint is None:
                shipped = task.experiment if task.experiment in choices("experiment") else None
                check_learning_rate(task.config, shipped)
            outcome = run_training(task.config, folder, task.checkpoint)
    return INTERRUPTED if outcome is Outcome.interrupted else DONE
