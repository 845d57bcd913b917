"""The training and test splits of a run, read and checked, with their proposals."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from detector.configs import schema
from detector.datasets.augment import EvaluationView, ProposalSource, TrainingView
from detector.datasets.build import build_datasets, build_proposals, skips_unreadable
from detector.datasets.sample import Dataset
from detector.engine.distributed import main_first
from detector.pipeline.proposal_recall import report_recall
from detector.pipeline.resume import require_same_classes

log = logging.getLogger("detector")


@dataclass(frozen=True, slots=True)
class Data:
    """The two splits of a run, and their views for training and evaluation."""

    train_set: Dataset
    test_set: Dataset
    train_view: TrainingView
    test_view: EvaluationView


def open_data(config: schema.Config, resume: dict[str, Any] | None) -> Data:
    """Read and check both splits. Raises ValueError for faulty data and if the splits have different classes."""
    with main_first():
        train_set, test_set = build_datasets(config.dataset)
    if train_set.classes != test_set.classes:
        raise ValueError(
            f"training split has classes {', '.join(train_set.classes)}; test split has {', '.join(test_set.classes)}: "
            "set dataset.classes to one list for both"
        )
    log.info("train %d images | test %d images", len(train_set.annotations), len(test_set.annotations))
    count = len(train_set.classes)
    log.info("%d class%s: %s", count, "es" * (count != 1), ", ".join(train_set.classes))
    if resume is not None:
        require_same_classes(resume, train_set.classes, str(config.resume))
    with main_first():
        train_view, test_view = build_views(config, train_set, test_set)
    return Data(train_set, test_set, train_view, test_view)


def build_views(config: schema.Config, train_set: Dataset, test_set: Dataset) -> tuple[TrainingView, EvaluationView]:
    """Return the views of both splits with their proposals. Log the recall of the proposals."""
    train_proposals = build_proposals(config.proposals, train_set, "train")
    test_proposals = build_proposals(config.proposals, test_set, "test")
    for name, dataset, source in (("train", train_set, train_proposals), ("test", test_set, test_proposals)):
        if source is not None:
            report_recall(name, dataset, source)
    train_view = training_view(config, train_set, train_proposals)
    return train_view, EvaluationView(test_set, test_proposals, short_side=config.input.test_short_side)


def training_view(config: schema.Config, dataset: Dataset, proposals: ProposalSource | None) -> TrainingView:
    """Return the training view: images augmented at random by `config.input` and the run's seed."""
    return TrainingView(
        dataset,
        proposals,
        flip=config.input.flip,
        flip_vertical=config.input.flip_vertical,
        color_jitter=config.input.color_jitter,
        crop=config.input.crop,
        mosaic=config.input.mosaic,
        scale_jitter=(config.input.scale_jitter[0], config.input.scale_jitter[1]),
        short_sides=tuple(config.input.short_sides),
        max_side=config.input.max_side,
        seed=config.trainer.seed,
        skip_unreadable=skips_unreadable(config.dataset),
    )
