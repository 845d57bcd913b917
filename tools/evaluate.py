"""`detector eval`: scores a trained model, or official result files without any model."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from detector.configs import schema
from detector.configs.errors import ConfigError
from detector.datasets.augment import EvaluationView
from detector.datasets.build import build_dataset, build_proposals
from detector.metrics import voc
from detector.metrics.result_files import read_voc_results
from detector.metrics.tables import TruthTable
from detector.tools.evaluation import evaluate_detector, save_pictures, save_results
from detector.tools.models import load_model, require_classes
from detector.tools.proposals import report_recall
from detector.tools.run import RunFolder, pick_device

log = logging.getLogger("detector")


def run_evaluation(config: schema.Config, run: RunFolder) -> None:
    """Prints the table and writes metrics.json (and, for a model, detections/ and pictures/) into `run`."""
    if config.detections is not None:
        evaluate_files(config, Path(config.detections), run)
    elif config.weights is not None:
        evaluate_model(config, Path(config.weights), run)
    else:
        raise ConfigError("eval needs weights=CHECKPOINT to run a model, or detections=FOLDER to score result files")


def evaluate_files(config: schema.Config, folder: Path, run: RunFolder) -> None:
    dataset = build_dataset(config.dataset, "test", need_images=False)
    truths = TruthTable.from_annotations(dataset.annotations, dataset.classes)
    detections = read_voc_results(folder, truths.image_ids, dataset.classes)
    start = time.perf_counter()
    result = voc.evaluate(detections, truths)
    log.info("%s\n%d detections scored in %.2f s", result.table(), len(detections), time.perf_counter() - start)
    run.write_json("metrics.json", {**result.to_json(), "detections": str(folder)})
    log.info("figures in %s", run.path / "metrics.json")


def evaluate_model(config: schema.Config, weights: Path, run: RunFolder) -> None:
    device = pick_device(config.trainer.device)
    model = load_model(weights, config, device)
    dataset = build_dataset(config.dataset, "test")
    require_classes(model, dataset.classes)
    proposals = build_proposals(config.proposals, dataset, "test")
    if proposals is not None:
        report_recall("test", dataset, proposals)
    view = EvaluationView(dataset, proposals, short_side=config.input.test_short_side)
    start = time.perf_counter()
    found, result = evaluate_detector(
        model.detector,
        view,
        device=device,
        precision=config.trainer.precision,
        batch_size=config.trainer.images_per_step,
        workers=config.trainer.workers,
    )
    seconds = time.perf_counter() - start
    log.info("%s\n%.1f images/s", result.table(), len(view) / seconds)
    about = {"step": model.step, "weights": str(weights), "images_per_s": round(len(view) / seconds, 2)}
    save_results(run, result, found, dataset, about)
    save_pictures(run, dataset, found, config.trainer.eval_images)
    run.write_config(config)
    log.info("figures in %s, detections in %s", run.path / "metrics.json", run.detections)
