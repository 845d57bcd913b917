"""Initial state of a training: the detector, its optimizer and schedule, and its initial weights."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from detector.build import build_detector, build_matcher, build_optimizer, build_schedule, load_backbone_weights
from detector.class_losses import class_balanced_weights
from detector.configs import schema
from detector.configs.errors import ConfigError
from detector.configs.groups import to_plain
from detector.datasets.augment import TrainingView
from detector.engine.distributed import main_first, world_size
from detector.engine.learning import train_only
from detector.engine.seed import seed_step
from detector.engine.sync_norm import synchronise_norms
from detector.engine.trainer import TrainingState
from detector.model import Detector
from detector.pipeline.data import Data
from detector.pipeline.models import start_from
from detector.pipeline.versions import versions
from detector.structures import Instances, Proposals
from detector.targets import measure_statistics

log = logging.getLogger("detector")


def new_detector(config: schema.Config, data: Data, device: torch.device) -> Detector:
    """Return a detector with random weights on `device`, with the parts frozen that are not trained."""
    settings = config.trainer
    seed_step(settings.seed, -1, 0)  # initial weights
    weights = class_weights(config, data)
    detector = build_detector(config, len(data.train_set.classes), weights).to(device)
    if settings.trained is not None:
        train_only(detector, settings.trained)
    if settings.sync_batch_norm and world_size() > 1:
        synchronise_norms(detector)
    if settings.gradient_checkpointing:
        if not hasattr(detector.backbone, "checkpointing"):
            raise ConfigError(
                f"trainer.gradient_checkpointing=true does not work with a {config.backbone.kind} backbone; "
                "use a ResNet or VGG16"
            )
        detector.backbone.checkpointing = True  # pyright: ignore[reportAttributeAccessIssue]
    return detector


def new_state(config: schema.Config, data: Data, detector: Detector, device: torch.device) -> TrainingState:
    """Return the detector with its optimizer and schedule, at step 0."""
    optimizer = build_optimizer(config, detector)
    return TrainingState(
        detector=detector,
        optimizer=optimizer,
        schedule=build_schedule(config, optimizer),
        scaler=torch.amp.GradScaler(device.type, enabled=config.trainer.precision == "fp16"),
        about={"config": to_plain(config), "classes": list(data.train_set.classes), "versions": versions()},
    )


def class_weights(config: schema.Config, data: Data) -> torch.Tensor | None:
    """Return the weights [K + 1] of the classes' losses, from the objects of the training split. None: equal weights.

    They are a function of the data, so no checkpoint has them.
    """
    if config.loss.class_balance_beta == 0:
        return None
    labels = [
        item.labels if config.sampling.use_difficult else item.labels[~item.difficult]
        for item in data.train_set.annotations
    ]
    counts = torch.cat(labels).bincount(minlength=len(data.train_set.classes) + 1)[1:].tolist()
    return class_balanced_weights(counts, config.loss.class_balance_beta)


def initialise(detector: Detector, config: schema.Config, data: Data) -> None:
    """Load the initial weights, and set the statistics of the box targets."""
    if config.weights is not None:
        start_from(Path(config.weights), detector, data.train_set.classes, config.weights_skip)
    else:
        with main_first():
            load_backbone_weights(config.backbone, detector.backbone)
    mean, std = target_statistics(config, detector, data.train_view)
    if config.weights is not None and "head" not in config.weights_skip:
        detector.set_target_statistics(mean, std)  # rescales the loaded weights, so that predicted boxes do not change
    else:
        detector.coder.mean.copy_(mean)
        detector.coder.std.copy_(std)
    if detector.loss.class_weights is not None:
        pairs = zip(data.train_set.classes, detector.loss.class_weights[1:].tolist(), strict=True)
        log.info("class weights: %s", ", ".join(f"{name} {weight:.2f}" for name, weight in pairs))


def target_statistics(
    config: schema.Config, detector: Detector, view: TrainingView
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and deviation [rows, 4] of the regression targets: from the config, or of the training split."""
    coder = detector.coder
    if config.loss.targets is schema.TargetStatistics.fixed or view.proposals is None:
        rows = (coder.mean.new_tensor(values) for values in (config.loss.deltas_mean, config.loss.deltas_std))
        mean, std = (row.expand_as(coder.mean) for row in rows)
        return mean, std
    source = view.proposals
    pairs = (
        (
            Proposals(source.boxes(index), torch.zeros(0)),
            Instances(annotation.boxes, annotation.labels, annotation.difficult),
        )
        for index, annotation in enumerate(view.dataset.annotations)
    )
    mean, std = measure_statistics(
        pairs,
        build_matcher(config.sampling),
        rows=coder.mean.shape[0],
        flip=config.input.flip,
        flip_vertical=config.input.flip_vertical,
    )
    log.info("box targets: mean %s, deviation %s (over classes)", _short(mean), _short(std))
    return mean.to(coder.mean.device), std.to(coder.std.device)


def _short(rows: torch.Tensor) -> str:
    return "(" + ", ".join(f"{value:.3f}" for value in rows.mean(dim=0).tolist()) + ")"
