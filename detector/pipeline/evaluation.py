"""Run a detector on a test split, and write the results to a run's folder and to TensorBoard."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from detector.datasets.augment import EvaluationView
from detector.datasets.sample import Dataset
from detector.datasets.writers.sides import file_stem
from detector.draw import draw_detections, to_tensor
from detector.engine.distributed import collected, dealt, world_size
from detector.engine.evaluate import detect_all
from detector.metrics import voc
from detector.metrics.dump import Dump, write_dump
from detector.metrics.result_files import write_voc_results
from detector.metrics.tables import DetectionTable, TruthTable
from detector.model import Detector
from detector.pipeline.detections import DUMP
from detector.pipeline.loaders import evaluation_loader, in_batches
from detector.pipeline.run_folder import RunFolder
from detector.structures import Detections, Instances

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter  # only training needs TensorBoard

log = logging.getLogger("detector")

CONFIDENT = 0.5  # detections below this score are not drawn


def evaluate_detector(
    detector: Detector, view: EvaluationView, *, device: torch.device, precision: str, batch_size: int, workers: int
) -> list[Detections] | None:
    """Return the detections of every image of the view, in order; None in all processes except the main one.

    `batch_size` is the total over all processes. Each process gets different batches, so each image is used once.
    """
    batches = in_batches(len(view), max(1, batch_size // world_size()))
    own = dealt(batches)
    with evaluation_loader(view, own, workers=workers, pin_memory=device.type == "cuda") as loaded:
        found = detect_all(detector, loaded, num_images=sum(map(len, own)), device=device, precision=precision)
    rest = iter(found)
    by_batch = collected([[next(rest) for _ in batch] for batch in own], len(batches))
    return None if by_batch is None else [item for batch in by_batch for item in batch]


def truth_table(dataset: Dataset) -> TruthTable:
    """Return a dataset's objects as one table."""
    return TruthTable.from_annotations(dataset.annotations, dataset.classes)


def detection_table(found: Sequence[Detections], dataset: Dataset) -> DetectionTable:
    """Return the detections of a dataset's images as one table."""
    return DetectionTable.from_detections(found, [item.image_id for item in dataset.annotations], dataset.classes)


def mean_ap(result: voc.VOCResult) -> float:
    """Return the score that selects the best checkpoint; 0 if no class has ground truth."""
    return result.results["voc07_11point"].mean or 0.0


def save_results(run: RunFolder, metrics: dict[str, Any], dump: Dump) -> None:
    """Write metrics.json, the dump (to compute every score again), and VOC's result files in detections/."""
    run.write_json("metrics.json", metrics)
    write_dump(dump, run.path / DUMP)
    write_voc_results(dump.detections, run.detections)


def show_results(writer: SummaryWriter, step: int, result: voc.VOCResult) -> None:
    """Write mAP and per-class AP as TensorBoard scalars."""
    for name, protocol in result.results.items():
        if protocol.mean is not None:
            writer.add_scalar(f"{name}/mAP", protocol.mean, step)
        for label, value in protocol.average_precision.items():
            writer.add_scalar(f"{name}/AP_{label}", value, step)


def show_pictures(
    writer: SummaryWriter,
    step: int,
    dataset: Dataset,
    found: Sequence[Detections],
    count: int,
    threshold: float = CONFIDENT,
) -> None:
    """Show the first images in TensorBoard, with ground truth (thin white) and confident detections."""
    for index in range(min(count, len(found))):
        picture = draw_dataset_image(dataset, index, found[index], threshold)
        writer.add_image(f"detections/{dataset.annotations[index].image_id}", to_tensor(picture), step)


def save_pictures(run: RunFolder, dataset: Dataset, found: Sequence[Detections], count: int) -> None:
    """Write the first images to files, with ground truth (thin white) and confident detections."""
    run.pictures.mkdir(exist_ok=True)
    for index in range(min(count, len(found))):
        picture = draw_dataset_image(dataset, index, found[index], threshold=CONFIDENT)
        picture.save(run.pictures / f"{file_stem(dataset.annotations[index])}.jpg", quality=92)


def draw_dataset_image(dataset: Dataset, index: int, detections: Detections, threshold: float) -> Image.Image:
    """Draw a dataset's image with its ground truth and the detections of at least `threshold`."""
    annotation = dataset.annotations[index]
    truths = Instances(annotation.boxes, annotation.labels, annotation.difficult)
    confident = detections[detections.scores >= threshold]
    return draw_detections(dataset.image(index), confident, dataset.classes, truths)
