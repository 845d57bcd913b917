"""`detector proposals`: compute or check a dataset's proposals. Also logs their recall before training."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from detector.configs import schema
from detector.datasets.augment import ProposalSource
from detector.datasets.build import build_proposals, readable_dataset
from detector.datasets.sample import Dataset
from detector.ops.boxes import best_match

log = logging.getLogger("detector")


def run_proposals(config: schema.Config) -> None:
    """Compute the proposals of both splits (or read and check them) and log their recall."""
    for role in ("train", "test"):
        dataset = readable_dataset(config.dataset, role)
        source = build_proposals(config.proposals, dataset, role)
        if source is None:
            log.info("proposals=rpn: the network makes the proposals, so there is nothing to compute")
            return
        report_recall(role, dataset, source)


def report_recall(name: str, dataset: Dataset, source: ProposalSource) -> None:
    """Log in one line the share of objects with a proposal of IoU 0.5 and 0.7, without difficult objects."""
    overlaps, labels, num_boxes = [torch.zeros(0)], [torch.zeros(0, dtype=torch.int64)], 0
    for index, annotation in enumerate(dataset.annotations):
        proposals, counted = source.boxes(index), ~annotation.difficult
        num_boxes += len(proposals)
        overlaps.append(best_match(annotation.boxes[counted], proposals)[0])
        labels.append(annotation.labels[counted])
    best, label = torch.cat(overlaps), torch.cat(labels)

    def recall(of: Tensor) -> str:
        return "/".join(f"{(best[of] >= threshold).float().mean():.3f}" for threshold in (0.5, 0.7))

    log.info(
        "%s proposals: %.0f an image, recall at IoU 0.5/0.7 %s (%s)",
        name,
        num_boxes / max(1, len(dataset.annotations)),
        recall(label > 0),
        ", ".join(f"{cls} {recall(label == i + 1)}" for i, cls in enumerate(dataset.classes) if (label == i + 1).any()),
    )
