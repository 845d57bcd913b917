"""`detector train`: train in a run folder.

`experiment=NAME` trains a recipe. `data=FOLDER` plans every setting from the photographs in the folder, the machine and
`trainer.max_minutes`; such a run also writes a report and a portable model. `resume=RUN` continues a run. `resume=auto`
continues the newest one, with `data=FOLDER` the one in `output_dir`; if there is none, it starts a new run.
"""

from __future__ import annotations

import logging
import shlex
from dataclasses import replace
from typing import Any

from detector.configs import schema
from detector.configs.choices import choices
from detector.configs.compose import override_config, read_config
from detector.engine.checkpoint import load_checkpoint
from detector.engine.distributed import is_main
from detector.engine.trainer import Outcome
from detector.pipeline.resume import Start
from detector.pipeline.run_folder import PLAN, RunFolder, all_processes
from detector.pipeline.training import check_anchors, check_learning_rate, run_training
from detector.pipeline.training_folder import training_run
from detector.tools.commands.analyze import run_analysis
from detector.tools.commands.export import run_export
from detector.tools.settings.application import Task
from detector.tools.settings.exit_codes import DONE, INTERRUPTED

log = logging.getLogger("detector")


def train(task: Task) -> int:
    """Train and return the exit code."""
    config, new = task.config, task.checkpoint is None
    with all_processes(config.trainer), training_run(config, str(task.folder), new=new) as folder:
        if task.checkpoint is None:
            shipped = task.experiment if task.experiment in choices("experiment") else None
            check_learning_rate(config, shipped)
            check_anchors(config)
            outcome = run_training(config, folder, None)
        else:
            outcome = resume_training(config, folder, task.checkpoint)
    return INTERRUPTED if outcome is Outcome.interrupted else DONE


def resume_run(start: Start) -> tuple[Outcome, RunFolder]:
    """Resume a run without Hydra."""
    config = start.config
    with all_processes(config.trainer), training_run(config, config.output_dir, new=False) as run:
        return resume_training(config, run, start.checkpoint or load_checkpoint(run.path)), run


def resume_training(config: schema.Config, run: RunFolder, checkpoint: dict[str, Any]) -> Outcome:
    """Resume the run from its checkpoint. A planned run ends with its report and its portable model."""
    outcome = run_training(config, run, checkpoint)
    if outcome is Outcome.done and is_main() and (run.path / PLAN).is_file():
        finish_run(run)
    return outcome


def finish_run(run: RunFolder) -> None:
    """Write analysis.html and model.safetensors into the run's folder, and print the next commands."""
    config = override_config(read_config(run.path), [])
    model = run.path / "model.safetensors"
    try:
        run_analysis(replace(config, detections=str(run.path)), run, quiet=True)
        run_export(replace(config, weights=str(run.path), export=schema.ExportConfig(output=str(model))))
    except KeyboardInterrupt:
        again = shlex.join(["detector", "train", f"resume={run.path}"])
        log.warning("the training is complete, but not its report and its portable model; to write them: %s", again)
        raise
    commands = (
        ("detector", "predict", f"weights={model}", "images=FOLDER"),
        ("detector", "eval", f"weights={run.path}"),
        ("tensorboard", "--logdir", str(run.tensorboard)),
    )
    log.info("\n  ".join(["next", *map(shlex.join, commands)]))
