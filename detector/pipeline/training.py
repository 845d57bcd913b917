"""`detector train`: from a config to a trained detector, its mAP, its checkpoints and its TensorBoard pages."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detector.build import build_detector, build_matcher, build_optimizer, build_schedule, load_backbone_weights
from detector.configs import schema
from detector.configs.compose import load_config
from detector.configs.errors import ConfigError
from detector.configs.groups import to_plain
from detector.datasets.augment import EvaluationView, TrainingView
from detector.datasets.build import build_dataset, build_proposals
from detector.datasets.sample import Dataset
from detector.engine.checkpoint import remove_leftovers
from detector.engine.compile import compile_parts
from detector.engine.distributed import main_first, rank, world_size
from detector.engine.ema import Average
from detector.engine.learning import train_only
from detector.engine.monitor import Monitor
from detector.engine.profile import profiled
from detector.engine.seed import make_deterministic, seed_step
from detector.engine.sync_norm import synchronise_norms
from detector.engine.trainer import LoopSettings, Outcome, TrainingState, train
from detector.engine.watch import warn_of_learning_rate
from detector.engine.watchdog import watchdog
from detector.model import Detector
from detector.pipeline.loaders import TrainingOrder, loading_errors, training_loader
from detector.pipeline.models import start_from
from detector.pipeline.periodic_evaluation import PeriodicEvaluation
from detector.pipeline.proposal_recall import report_recall
from detector.pipeline.resume import require_same_classes
from detector.pipeline.run_folder import RunFolder, kernels, pick_device
from detector.pipeline.versions import versions
from detector.structures import Batch, Instances, Proposals
from detector.targets import measure_statistics

log = logging.getLogger("detector")


@dataclass(frozen=True, slots=True)
class Data:
    """The two splits of a run, and what training and evaluation see of them."""

    train_set: Dataset
    test_set: Dataset
    train_view: TrainingView
    test_view: EvaluationView


def run_training(config: schema.Config, run: RunFolder, resume: dict[str, Any] | None) -> Outcome:
    """Trains into `run`; `resume` is the checkpoint to go on from, or None to start."""
    started = time.monotonic()
    device = prepare_device(config.trainer)
    log.info("run folder %s | device %s%s | %s", run.path, device, _processes(), kernels(device))
    data = open_data(config, resume)
    state = new_state(config, data, device)
    if resume is None:
        initialise(state.detector, config, data)
    if config.trainer.ema_decay is not None:
        state.average = Average(state.detector, config.trainer.ema_decay)
    if resume is not None:
        state.load(resume, str(config.resume))
        log.info("going on from step %d", state.step)
    if config.trainer.compile:
        compile_parts(state.detector)
    monitor = open_monitor(config, run, state)
    evaluate = PeriodicEvaluation(config, run, state, data.test_set, data.test_view, monitor.writer, device, started)
    batches = training_batches(config, data, device, first_step=state.step, trace_folder=run.path / "profile")
    # That a worker died may be noticed as late as in closing the monitor.
    with watchdog(60 * config.trainer.timeout_minutes), loading_errors(), closing(monitor):
        outcome = train(
            state,
            batches,
            loop_settings(config),
            device=device,
            monitor=monitor,
            evaluate=evaluate,
            checkpoints=run.checkpoints,
        )
    log.info(
        "%s at step %d after %.1f minutes\n  pictures     %s\n  checkpoints  %s\n  figures      %s\n  TensorBoard  %s",
        outcome.value,
        state.step,
        (time.monotonic() - started) / 60,
        run.pictures,
        run.checkpoints,
        run.path / "metrics.json",
        f"tensorboard --logdir {run.tensorboard}",
    )
    return outcome


def prepare_device(settings: schema.TrainerConfig) -> torch.device:
    """The device of `trainer.device`, with the threads and the determinism that the settings ask for."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if settings.deterministic:
        make_deterministic()
    return pick_device(settings.device)


def open_data(config: schema.Config, resume: dict[str, Any] | None) -> Data:
    """Both splits, read and checked. Raises ValueError for faulty data and for classes that differ."""
    with main_first():
        train_set, test_set = build_dataset(config.dataset, "train"), build_dataset(config.dataset, "test")
    if train_set.classes != test_set.classes:
        raise ValueError(
            f"training split has classes {', '.join(train_set.classes)}; test split has {', '.join(test_set.classes)}: "
            "give one list in dataset.classes"
        )
    log.info("train %d images | test %d images", len(train_set.annotations), len(test_set.annotations))
    log.info("%d classes: %s", len(train_set.classes), ", ".join(train_set.classes))
    if resume is not None:
        require_same_classes(resume, train_set.classes, str(config.resume))
    with main_first():
        train_view, test_view = build_views(config, train_set, test_set)
    return Data(train_set, test_set, train_view, test_view)


def new_state(config: schema.Config, data: Data, device: torch.device) -> TrainingState:
    """A detector with random weights on `device`, its optimizer and its schedule, at step 0."""
    settings = config.trainer
    seed_step(settings.seed, -1, 0)  # initial weights
    detector = build_detector(config, len(data.train_set.classes)).to(device)
    if settings.trained is not None:
        train_only(detector, settings.trained)
    if settings.sync_batch_norm and world_size() > 1:
        synchronise_norms(detector)
    if settings.gradient_checkpointing:
        if not hasattr(detector.backbone, "checkpointing"):
            raise ConfigError(
                f"trainer.gradient_checkpointing=true: a {config.backbone.kind} backbone has no stages to run again; "
                "use a ResNet or VGG16"
            )
        detector.backbone.checkpointing = True
    optimizer = build_optimizer(config, detector)
    return TrainingState(
        detector=detector,
        optimizer=optimizer,
        schedule=build_schedule(config, optimizer),
        scaler=torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16"),
        about={"config": to_plain(config), "classes": list(data.train_set.classes), "versions": versions()},
    )


def initialise(detector: Detector, config: schema.Config, data: Data) -> None:
    """Loads the weights to start from, and sets the statistics of the box targets."""
    if config.weights is not None:
        start_from(Path(config.weights), detector, data.train_set.classes, config.weights_skip)
    else:
        with main_first():
            load_backbone_weights(config.backbone, detector.backbone)
    mean, std = target_statistics(config, detector, data.train_view)
    if config.weights is not None and "head" not in config.weights_skip:
        detector.set_target_statistics(mean, std)  # what it has learned stays, in the new units
    else:
        detector.coder.mean.copy_(mean)
        detector.coder.std.copy_(std)


def open_monitor(config: schema.Config, run: RunFolder, state: TrainingState) -> Monitor:
    """The progress line and TensorBoard; writes the run's config and history."""
    monitor = Monitor(
        run.tensorboard,
        first_step=state.step,
        max_steps=config.trainer.max_steps,
        log_every=config.trainer.log_every,
    )
    if monitor.writer is not None:
        monitor.writer.add_text("config", f"```yaml\n{run.write_config(config)}\n```", state.step)
        remove_leftovers(run.path)
        run.write_history(state.step)
    return monitor


def training_batches(
    config: schema.Config, data: Data, device: torch.device, *, first_step: int, trace_folder: Path
) -> Iterable[Batch]:
    """This process's share of every batch from `first_step` on."""
    settings, annotations = config.trainer, data.train_set.annotations
    order = TrainingOrder(
        len(annotations),
        settings.images_per_step,
        seed=settings.seed,
        first_step=first_step,
        last_step=settings.max_steps,
        rank=rank(),
        world_size=world_size(),
        is_tall=[item.height > item.width for item in annotations] if settings.group_by_aspect else None,
    )
    loader = training_loader(
        data.train_view, order, workers=settings.workers, pin_memory=device.type == "cuda", prefetch=settings.prefetch
    )
    return profiled(loader, settings.profile_steps, trace_folder, device)


def loop_settings(config: schema.Config) -> LoopSettings:
    """What the loop itself needs to know of the config."""
    settings = config.trainer
    return LoopSettings(
        max_steps=settings.max_steps,
        max_minutes=settings.max_minutes,
        seed=settings.seed,
        precision=settings.precision,
        clip_norm=config.optimizer.clip_norm,
        eval_every=settings.eval_every,
        checkpoint_every=settings.checkpoint_every,
        keep_every=settings.keep_every,
        keep_newest=settings.keep_newest,
        micro_batches=settings.micro_batches,
        patience=settings.patience,
        on_nonfinite=settings.on_nonfinite.value,
    )


def _processes() -> str:
    return f" | {world_size()} processes" if world_size() > 1 else ""


def check_learning_rate(config: schema.Config, experiment: str | None) -> None:
    """Warns of a learning rate far from the recipe's: that of the experiment, or the published one of fine-tuning."""
    if experiment is not None:
        recipe = load_config([f"experiment={experiment}"])
        optimizer, images = recipe.optimizer, recipe.trainer.images_per_step
    elif config.backbone.weights is not None:
        optimizer, images = type(config.optimizer)(), schema.TrainerConfig().images_per_step
    else:
        return  # from scratch there is none
    if config.optimizer.kind == optimizer.kind:
        warn_of_learning_rate(
            config.optimizer.lr, config.trainer.images_per_step, recipe_lr=optimizer.lr, recipe_images=images
        )


def build_views(config: schema.Config, train_set: Dataset, test_set: Dataset) -> tuple[TrainingView, EvaluationView]:
    """The two splits with their proposals, checked, their recall printed."""
    train_proposals = build_proposals(config.proposals, train_set, "train")
    test_proposals = build_proposals(config.proposals, test_set, "test")
    for name, dataset, source in (("train", train_set, train_proposals), ("test", test_set, test_proposals)):
        if source is not None:
            report_recall(name, dataset, source)
    train_view = TrainingView(
        train_set,
        train_proposals,
        flip=config.input.flip,
        flip_vertical=config.input.flip_vertical,
        color_jitter=config.input.color_jitter,
        short_sides=tuple(config.input.short_sides),
        seed=config.trainer.seed,
    )
    return train_view, EvaluationView(test_set, test_proposals, short_side=config.input.test_short_side)


def target_statistics(
    config: schema.Config, detector: Detector, view: TrainingView
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation [rows, 4] of the regression targets: the config's, or measured over the training split."""
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
