"""Evaluation during training: detections, mAP, TensorBoard, result files and pictures."""

from __future__ import annotations

import logging
import time

import torch
from torch.utils.tensorboard import SummaryWriter

from detector.configs import schema
from detector.datasets.augment import EvaluationView
from detector.datasets.sample import Dataset
from detector.engine.trainer import TrainingState
from detector.metrics import voc
from detector.pipeline.detections import make_dump
from detector.pipeline.evaluation import (
    detection_table,
    evaluate_detector,
    mean_ap,
    save_pictures,
    save_results,
    show_pictures,
    show_results,
    truth_table,
)
from detector.pipeline.learned_proposals import show_learned_proposals
from detector.pipeline.run_folder import RunFolder
from detector.pipeline.score_maps import show_score_maps

log = logging.getLogger("detector")


class PeriodicEvaluation:
    """Evaluates the run's detector on the test split. Every process calls it, only the main process writes."""

    def __init__(
        self,
        config: schema.Config,
        run: RunFolder,
        state: TrainingState,
        test_set: Dataset,
        test_view: EvaluationView,
        writer: SummaryWriter | None,
        device: torch.device,
        started: float,
    ) -> None:
        """`writer` is None in all processes except the main one; `started` is `time.monotonic()` at the run's start."""
        self.config = config
        self.run = run
        self.state = state
        self.test_set = test_set
        self.test_view = test_view
        self.writer = writer
        self.device = device
        self.started = started

    def __call__(self, step: int) -> float:
        """Return the mean AP after `step` steps; 0 in all processes except the main one."""
        config, settings, detector = self.config, self.config.trainer, self.state.evaluated_detector
        found = evaluate_detector(
            detector,
            self.test_view,
            device=self.device,
            precision=settings.precision,
            batch_size=settings.images_per_step,
            workers=settings.workers,
        )
        if found is None or self.writer is None:
            return 0.0
        dump = make_dump(detection_table(found, self.test_set), config, detector)
        result = voc.evaluate(dump.detections, truth_table(self.test_set))
        log.info("step %d, test split\n%s", step, result.table())
        show_results(self.writer, step, result)
        shown = (settings.eval_images, self.device, settings.precision)
        if self.test_view.proposals is None:
            show_learned_proposals(self.writer, step, detector, self.test_view, *shown)
        show_pictures(self.writer, step, self.test_set, found, settings.eval_images)
        show_score_maps(self.writer, step, detector, self.test_view, found, *shown)
        minutes = (time.monotonic() - self.started) / 60
        about = {"step": step, "minutes": round(minutes, 2), "run": str(self.run.path)}
        save_results(self.run, {**result.to_json(), **about}, dump)
        save_pictures(self.run, self.test_set, found, settings.eval_images)
        return mean_ap(result)
