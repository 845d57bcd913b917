"""`detector train`: train in a run folder.

`experiment=NAME` trains a recipe. `data=FOLDER` plans every setting from the photographs in the folder, the machine and
`trainer.max_minutes`; such a run also writes a report and a portable model. `resume=RUN` continues a run.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from detector.configs import schema
from detector.configs.choices import choices
from detector.engine.trainer import Outcome
from detector.pipeline.run_folder import RunFolder, all_processes, logged_run
from detector.pipeline.training import check_learning_rate, run_training
from detector.tools.commands.analyze import run_analysis
from detector.tools.commands.export import run_export
from detector.tools.settings.application import Task
from detector.tools.settings.exit_codes import DONE, INTERRUPTED

log = logging.getLogger("detector")


def train(task: Task) -> int:
    """Train and return the exit code."""
    with all_processes(task.config.trainer), logged_run(str(task.folder), "train") as folder:
        if task.checkpoint is None:
            shipped = task.experiment if task.experiment in choices("experiment") else None
            check_learning_rate(task.config, shipped)
        outcome = run_training(task.config, folder, task.checkpoint)
    return INTERRUPTED if outcome is Outcome.interrupted else DONE


def finish_run(config: schema.Config, run: RunFolder) -> None:
    """Write analysis.html and model.safetensors into the run's folder, and print the next commands."""
    run_analysis(replace(config, detections=str(run.path)), run)
    model = run.path / "model.safetensors"
    run_export(replace(config, weights=str(run.path), export=schema.ExportConfig(output=str(model))))
    log.info(
        "next\n  detector predict weights=%s images=FOLDER\n  detector eval weights=%s\n  tensorboard --logdir %s",
        model,
        run.path,
        run.tensorboard,
    )
