"""The section of the analysis page about the training of the run."""

from __future__ import annotations

from html import escape

import numpy as np

from detector.tools.report.html import table
from detector.tools.report.plots import lines
from detector.tools.report.training_record import TrainingRecord


def training(record: TrainingRecord) -> str:
    """Return plots of loss, mAP and learning rate, the speed, and the plan with its reasons."""
    steps = record.losses["loss"][-1][0] if record.losses.get("loss") else 0
    speed = [value for _, value in record.images_per_s]
    facts = [f"{steps:,} steps"] if steps else []
    facts += [f"{record.minutes:.1f} minutes"] if record.minutes is not None else []
    facts += [f"{float(np.median(speed)):.1f} images/s (median)"] if speed else []
    plots = [("loss", record.losses), ("mAP on the test split", record.scores)]
    if record.learning_rate:
        plots.append(("learning rate", {"learning rate": record.learning_rate}))
    drawn = "".join(
        f"<figure><h3>{name}</h3>{lines(dict(curves))}</figure>" for name, curves in plots if any(curves.values())
    )
    plan = ""
    if record.plan:
        rows = [list(row) for row in record.plan]
        listed = table(["setting", "value", "reason"], rows, text_column=2)
        plan = f"<details><summary>The plan: {len(rows)} settings and their reasons</summary>{listed}</details>"
    return f'<p>{escape(", ".join(facts))}</p><div class="columns">{drawn}</div>{plan}'
