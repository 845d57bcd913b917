"""`detector analyze`: show the errors of a detector on one HTML page, from its detections. The page needs no server.

All errors are measured by one protocol, `evaluation.protocol`. The page also shows the scores by the other protocols.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from detector.configs import schema
from detector.configs.errors import ConfigError
from detector.datasets.build import build_dataset
from detector.datasets.sample import Dataset
from detector.draw import draw_detections, to_tensor
from detector.metrics.tables import DetectionTable
from detector.pipeline.detections import read_detections
from detector.pipeline.evaluation import truth_table
from detector.pipeline.run_folder import RunFolder
from detector.pipeline.scores import check_settings
from detector.structures import Detections, Instances
from detector.tools.report.analysis import Analysis, analyze
from detector.tools.report.analysis_page import render
from detector.tools.report.examples import first_with_picture
from detector.tools.report.training_record import read_training

log = logging.getLogger("detector")


def run_analysis(config: schema.Config, run: RunFolder, *, quiet: bool = False) -> None:
    """Write analysis.html and analysis.json (and tensorboard/, if set) into `run`.

    With `quiet`, nothing is logged of the data set, for a run that has logged it.
    """
    check_settings(config.evaluation)
    if config.detections is None:
        raise ConfigError("analyze needs detections=PATH: a run's folder, a dump, comp4 files or COCO results")
    dataset = build_dataset(config.dataset, "test", need_images=False, quiet=quiet)
    truths = truth_table(dataset)
    analysis = analyze(read_detections(Path(config.detections), truths, config), truths, config.evaluation)
    log.info("errors, and the average precision that each kind costs (dAP)\n%s", analysis.split.table())
    run.write_json("analysis.json", analysis.to_json())
    page = run.path / "analysis.html"
    record = read_training(Path(config.detections))
    page.write_text(render(analysis, dataset, record), encoding="utf-8")
    if config.evaluation.tensorboard:
        write_tensorboard(analysis, dataset, run.tensorboard)
        log.info("curves and pictures: tensorboard --logdir %s", run.tensorboard)
    log.info("open %s in a browser", page)


def write_tensorboard(analysis: Analysis, dataset: Dataset, folder: Path) -> None:
    """Write precision-recall curves of every class and the worst images for TensorBoard."""
    with SummaryWriter(str(folder)) as writer:
        for name, curve in analysis.result.curves.items():
            thresholds = np.linspace(0.0, 1.0, 127)
            above = np.searchsorted(-curve.scores, -thresholds, side="right")
            correct = np.concatenate(([0], curve.true_positives))[above]
            writer.add_pr_curve_raw(
                f"precision_recall/{name}",
                correct,
                above - correct,
                np.zeros_like(correct),  # detectors have no true negatives
                curve.num_truths - correct,
                correct / np.maximum(above, 1),
                correct / curve.num_truths,
                num_thresholds=len(thresholds),
            )
        images = [item.image for item in analysis.worst]
        for position, picture in first_with_picture(images, dataset.image, analysis.settings.pictures):
            annotation = dataset.annotations[images[position]]
            found = _of_image(analysis.detections, images[position], analysis.settings.score_threshold)
            objects = Instances(annotation.boxes, annotation.labels, annotation.difficult)
            drawn = draw_detections(picture, found, dataset.classes, objects)
            writer.add_image(f"worst_images/{position:03d}_{annotation.image_id}", to_tensor(drawn))


def _of_image(table: DetectionTable, image: int, score_threshold: float) -> Detections:
    rows = np.flatnonzero((table.image_index == image) & (table.scores >= score_threshold))
    rows = rows[np.argsort(-table.scores[rows], kind="stable")]
    return Detections(
        torch.from_numpy(table.boxes[rows]).float(),
        torch.from_numpy(table.scores[rows]).float(),
        torch.from_numpy(table.labels[rows]),
    )
