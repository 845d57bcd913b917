"""Proposals of an RPN for a split: written to a file, or shown in TensorBoard with their recall."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from detector.datasets.augment import EvaluationView
from detector.datasets.proposal_files import from_boxes, save_proposals
from detector.draw import draw_detections, to_tensor
from detector.engine.precision import autocast
from detector.metrics.recall import evaluate
from detector.metrics.tables import TruthTable
from detector.model import Detector
from detector.pipeline.loaders import evaluation_loader, in_batches
from detector.structures import Detections, Instances

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter  # only training needs TensorBoard

RECALL_IMAGES = 100  # images for the recall; each needs one more pass through the backbone
RECALL_COUNT = 300  # proposals per image
DRAWN = 20  # proposals drawn on a picture


def write_learned_proposals(
    path: Path, detector: Detector, view: EvaluationView, device: torch.device, precision: str
) -> None:
    """Write the proposals of every image of the view to a .npz that `proposals=file` reads."""
    boxes = learned_proposals(detector, view, len(view), device, precision)
    save_proposals(path, from_boxes([item.image_id for item in view.dataset.annotations], boxes))


def show_learned_proposals(
    writer: SummaryWriter,
    step: int,
    detector: Detector,
    view: EvaluationView,
    pictures: int,
    device: torch.device,
    precision: str,
) -> None:
    """Show in TensorBoard: recall of 300 proposals on the first images (IoU 0.5, 0.7), best proposals as pictures."""
    annotations = view.dataset.annotations[:RECALL_IMAGES]
    boxes = learned_proposals(detector, view, len(annotations), device, precision)
    result = evaluate(boxes, TruthTable.from_annotations(annotations, view.dataset.classes), (RECALL_COUNT,))
    for threshold in (0.5, 0.7):
        recall = result.recall(threshold, RECALL_COUNT)
        if recall is not None:
            writer.add_scalar(f"proposals/recall_{threshold}_at_{RECALL_COUNT}", recall, step)
    for index, annotation in enumerate(annotations[:pictures]):
        best = boxes[index][:DRAWN]
        # A proposal has no class, so it is drawn as a detection of the class "rank", with its rank as score.
        ranks = Detections(best, torch.linspace(1, 0, len(best)), torch.ones(len(best), dtype=torch.int64))
        truths = Instances(annotation.boxes, annotation.labels, annotation.difficult)
        picture = draw_detections(view.dataset.image(index), ranks, ("rank",), truths)
        writer.add_image(f"proposals/{annotation.image_id}", to_tensor(picture), step)


def learned_proposals(
    detector: Detector, view: EvaluationView, count: int, device: torch.device, precision: str
) -> list[Tensor]:
    """Return the boxes [P, 4] of the first `count` images, best first. The detector's mode (train or eval) is kept."""
    training = detector.training
    detector.eval()
    with (
        evaluation_loader(view, in_batches(count, 1), workers=0, pin_memory=False) as batches,
        autocast(device, precision),
    ):
        found = [detector.propose(batch.to(device))[0].boxes.cpu() for batch in batches]
    detector.train(training)
    return found
