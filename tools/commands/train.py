"""What follows a planned training on the command line: a report, a portable model, the next three commands."""

from __future__ import annotations

import logging
from dataclasses import replace

from detector.configs import schema
from detector.pipeline.run_folder import RunFolder
from detector.tools.commands.analyze import run_analysis
from detector.tools.commands.export import run_export

log = logging.getLogger("detector")


def finish_run(config: schema.Config, run: RunFolder) -> None:
    """Writes analysis.html and model.safetensors into the run's folder, and says how to go on."""
    run_analysis(replace(config, detections=str(run.path)), run)
    model = run.path / "model.safetensors"
    run_export(replace(config, weights=str(run.path), export=schema.ExportConfig(output=str(model))))
    log.info(
        "next\n  detector predict weights=%s images=FOLDER\n  detector eval weights=%s\n  tensorboard --logdir %s",
        model,
        run.path,
        run.tensorboard,
    )
