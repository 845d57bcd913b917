"""`detector eval`: score a trained model, or detections from files without a model, by each selected protocol."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from detector.configs import schema
from detector.configs.errors import ConfigError
from detector.datasets.augment import EvaluationView
from detector.datasets.build import build_dataset, build_proposals, readable_dataset
from detector.pipeline.detections import DUMP, make_dump, read_detections
from detector.pipeline.evaluation import detection_table, evaluate_detector, save_pictures, save_results, truth_table
from detector.pipeline.proposal_recall import report_recall
from detector.pipeline.run_folder import RunFolder, pick_device
from detector.pipeline.scores import check_settings, score

log = logging.getLogger("detector")


def run_evaluation(config: schema.Config, run: RunFolder) -> None:
    """Print the table and write metrics.json (and, for a model, its detections and pictures) into `run`."""
    check_settings(config.evaluation)
    if config.detections is not None:
        evaluate_files(config, Path(config.detections), run)
    elif config.weights is not None:
        evaluate_model(config, Path(config.weights), run)
    else:
        raise ConfigError("eval needs weights=CHECKPOINT to run a model, or detections=PATH to score saved detections")


def evaluate_files(config: schema.Config, path: Path, run: RunFolder) -> None:
    """Score a dump, comp4 files or COCO results. Pictures are not needed."""
    dataset = build_dataset(config.dataset, "test", need_images=False)
    truths = truth_table(dataset)
    dump = read_detections(path, truths, config)
    start = time.perf_counter()
    scores = score(dump.detections, truths, config.evaluation)
    log.info("%s\n%d detections scored in %.2f s", scores.table(), len(dump.detections), time.perf_counter() - start)
    run.write_json("metrics.json", {**scores.to_json(), "detections": str(path), "model": dump.model})
    log.info("scores in %s", run.path / "metrics.json")


def evaluate_model(config: schema.Config, weights: Path, run: RunFolder) -> None:
    """Run a model on the test split, save its detections in one dump, and score them."""
    from detector.pipeline.models import load_model, require_classes  # loads torchvision, which takes seconds

    device = pick_device(config.trainer.device)
    model = load_model(weights, config, device)
    dataset = readable_dataset(config.dataset, "test")
    require_classes(model, dataset.classes)
    proposals = build_proposals(config.proposals, dataset, "test")
    if proposals is not None:
        report_recall("test", dataset, proposals)
    view = EvaluationView(dataset, proposals, short_side=config.input.test_short_side)
    start = time.perf_counter()
    found = evaluate_detector(
        model.detector,
        view,
        device=device,
        precision=config.trainer.precision,
        batch_size=config.trainer.images_per_step,
        workers=config.trainer.workers,
    )
    seconds = time.perf_counter() - start
    if found is None:
        return
    dump = make_dump(detection_table(found, dataset), config, model.detector)
    scores = score(dump.detections, truth_table(dataset), config.evaluation)
    log.info("%s\n%.1f images/s", scores.table(), len(view) / seconds)
    about = {
        "step": model.step,
        "weights": str(weights),
        "model": dump.model,
        "images_per_s": round(len(view) / seconds, 2),
    }
    save_results(run, {**scores.to_json(), **about}, dump)
    save_pictures(run, dataset, found, config.trainer.eval_images)
    run.write_config(config)
    log.info("scores in %s, detections in %s", run.path / "metrics.json", run.path / DUMP)
