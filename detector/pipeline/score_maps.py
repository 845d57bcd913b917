"""Score maps of a voting head (R-FCN): the maps of a class with a RoI drawn on them, and the votes for the RoI."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from detector.datasets.augment import EvaluationView
from detector.draw import to_tensor
from detector.draw_score_maps import draw_score_maps
from detector.engine.precision import autocast
from detector.heads import Votes, VotingHead
from detector.model import Detector
from detector.pipeline.loaders import collate
from detector.preprocess import to_input
from detector.structures import Batch, Detections


@torch.no_grad()
def votes_of(detector: Detector, batch: Batch, box: Tensor) -> Votes:
    """Return the votes for a box [4] in pixels of the batch's only image. `stride` is also in these pixels.

    Raises ValueError for a detector whose head does not vote.
    """
    head = detector.head
    if not isinstance(head, VotingHead):
        raise ValueError(f"the model's head is a {type(head).__name__}; only head=rfcn makes score maps")
    inputs = detector.preprocess(batch)
    frame = inputs.frames[0]
    votes = head.votes(detector.head.maps(detector.backbone(inputs.images).head), [to_input(box[None], frame)])
    return votes._replace(stride=votes.stride / frame.scale())


def show_score_maps(
    writer: SummaryWriter,
    step: int,
    detector: Detector,
    view: EvaluationView,
    found: Sequence[Detections],
    pictures: int,
    device: torch.device,
    precision: str,
) -> None:
    """Draw the votes for the best detection of each of the first images, in TensorBoard under `score_maps/`."""
    if not isinstance(detector.head, VotingHead):
        return
    training = detector.training
    detector.eval()
    for index in range(min(pictures, len(found))):
        if len(found[index]) == 0:
            continue
        best = int(found[index].scores.argmax())
        box, label, score = (part[best] for part in (found[index].boxes, found[index].labels, found[index].scores))
        sample = view[index]
        with autocast(device, precision):
            votes = votes_of(detector, collate([sample]).to(device), box.to(device))
        picture = draw_score_maps(
            sample.image,
            votes.score_maps[0, label],
            box,
            votes.bins[0, label],
            cell_size=votes.stride,
            title=f"{view.dataset.classes[label - 1]}: score {score:.3f}",
        )
        writer.add_image(f"score_maps/{sample.annotation.image_id}", to_tensor(picture), step)
    detector.train(training)
