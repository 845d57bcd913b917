"""`detector proposals`: computes or checks a dataset's proposals; and their recall, printed before training."""

from __future__ import annotations

import logging

from detector.configs import schema
from detector.datasets.augment import ProposalSource
from detector.datasets.build import build_dataset, build_proposals
from detector.datasets.sample import Dataset
from detector.metrics.recall import proposal_recall

log = logging.getLogger("detector")


def run_proposals(config: schema.Config) -> None:
    """Makes both splits' proposals (or reads and checks them) and prints their recall."""
    for role in ("train", "test"):
        dataset = build_dataset(config.dataset, role)
        source = build_proposals(config.proposals, dataset, role)
        if source is None:
            log.info("proposals=rpn: a network proposes, there is nothing to compute")
            return
        report_recall(role, dataset, source)


def report_recall(name: str, dataset: Dataset, source: ProposalSource) -> None:
    """One line with the share of objects that some proposal meets at IoU 0.5 and 0.7, difficult ones left out."""
    boxes = [source.boxes(index) for index in range(len(dataset.annotations))]
    mean = sum(len(item) for item in boxes) / max(1, len(boxes))
    overall, per_class = proposal_recall(boxes, dataset.annotations, dataset.classes)
    told = ", ".join(f"{label} {low:.3f}/{high:.3f}" for label, (low, high) in per_class.items())
    log.info("%s proposals: %.0f an image, recall at IoU 0.5/0.7: %.3f/%.3f", name, mean, *overall)
    log.debug("%s proposals by class: %s", name, told)
