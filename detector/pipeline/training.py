"""`detector train`: from a config to a trained detector, its mAP, its checkpoints and its TensorBoard pages."""

from __future__ import annotations

import logging
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from detector.build import build_detector, build_matcher, build_optimizer, build_schedule, load_backbone_weights
from detector.configs import schema
from detector.configs.compose import load_config
from detector.configs.errors import ConfigError
from detector.configs.groups import to_plain
from detector.datasets.augment import EvaluationView, TrainingView
from detector.datasets.build import build_datasets, build_proposals, skips_unreadable
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
from detector.metrics import voc
from detector.model import Detector
from detector.pipeline.detections import make_dump
from detector.pipeline.evaluation import (
    evaluate_detector,
    mean_ap,
    save_pictures,
    save_results,
    show_pictures,
    show_results,
    table,
    truth_table,
)
from detector.pipeline.learned_proposals import show_learned_proposals
from detector.pipeline.loaders import TrainingOrder, loading_errors, training_loader
from detector.pipeline.models import start_from
from detector.pipeline.proposal_recall import report_recall
from detector.pipeline.resume import require_same_classes
from detector.pipeline.run_folder import RunFolder, kernels, pick_device
from detector.pipeline.score_maps import show_score_maps
from detector.pipeline.versions import versions
from detector.structures import Instances, Proposals
from detector.targets import measure_statistics

log = logging.getLogger("detector")


def run_training(config: schema.Config, run: RunFolder, resume: dict[str, Any] | None) -> Outcome:
    """Trains into `run`; `resume` is the checkpoint to go on from, or None to start."""
    settings = config.trainer
    device = pick_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if settings.deterministic:
        make_deterministic()
    processes = f" | {world_size()} processes" if world_size() > 1 else ""
    log.info("run folder %s | device %s%s | %s", run.path, device, processes, kernels(device))

    with main_first():
        train_set, test_set = build_datasets(config.dataset)
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

    seed_step(settings.seed, -1, 0)  # initial weights
    detector = build_detector(config, len(train_set.classes)).to(device)
    if settings.trained is not None:
        train_only(detector, settings.trained)
    if settings.sync_batch_norm and world_size() > 1:
        synchronise_norms(detector)
    optimizer = build_optimizer(config, detector)
    state = TrainingState(
        detector=detector,
        optimizer=optimizer,
        schedule=build_schedule(config, optimizer),
        scaler=torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16"),
        about={"config": to_plain(config), "classes": list(train_set.classes), "versions": versions()},
    )
    if resume is None:
        if config.weights is not None:
            start_from(Path(config.weights), detector, train_set.classes, config.weights_skip)
        else:
            with main_first():
                load_backbone_weights(config.backbone, detector.backbone)
        mean, std = target_statistics(config, detector, train_view)
        if config.weights is not None and "head" not in config.weights_skip:
            detector.set_target_statistics(mean, std)  # what it has learned stays, in the new units
        else:
            detector.coder.mean.copy_(mean)
            detector.coder.std.copy_(std)
    if settings.gradient_checkpointing:
        if not hasattr(detector.backbone, "checkpointing"):
            raise ConfigError(
                f"trainer.gradient_checkpointing=true: a {config.backbone.kind} backbone has no stages to run again; "
                "use a ResNet or VGG16"
            )
        detector.backbone.checkpointing = True
    if settings.ema_decay is not None:
        state.average = Average(detector, settings.ema_decay)
    if resume is not None:
        state.load(resume, str(config.resume))
        log.info("going on from step %d", state.step)

    if settings.compile:
        compile_parts(detector)
    monitor = Monitor(
        run.tensorboard, first_step=state.step, max_steps=settings.max_steps, log_every=settings.log_every
    )
    if monitor.writer is not None:
        monitor.writer.add_text("config", f"```yaml\n{run.write_config(config)}\n```", state.step)
        remove_leftovers(run.path)
        run.write_history(state.step)
    started = time.monotonic()

    def evaluate(step: int) -> float:
        found = evaluate_detector(
            state.judged,
            test_view,
            device=device,
            precision=settings.precision,
            batch_size=settings.images_per_step,
            workers=settings.workers,
        )
        if found is None or monitor.writer is None:
            return 0.0  # the main process judges
        dump = make_dump(table(found, test_set), config, state.judged)
        result = voc.evaluate(dump.detections, truth_table(test_set))
        log.info("step %d, test split\n%s", step, result.table())
        show_results(monitor.writer, step, result)
        if test_view.proposals is None:
            show_learned_proposals(
                monitor.writer, step, state.judged, test_view, settings.eval_images, device, settings.precision
            )
        show_pictures(monitor.writer, step, test_set, found, settings.eval_images)
        show_score_maps(
            monitor.writer, step, state.judged, test_view, found, settings.eval_images, device, settings.precision
        )
        minutes = (time.monotonic() - started) / 60
        about = {"step": step, "minutes": round(minutes, 2), "run": str(run.path)}
        save_results(run, {**result.to_json(), **about}, dump)
        save_pictures(run, test_set, found, settings.eval_images)
        return mean_ap(result)

    order = TrainingOrder(
        len(train_set.annotations),
        settings.images_per_step,
        seed=settings.seed,
        first_step=state.step,
        last_step=settings.max_steps,
        rank=rank(),
        world_size=world_size(),
        is_tall=[item.height > item.width for item in train_set.annotations] if settings.group_by_aspect else None,
    )
    loader = training_loader(
        train_view, order, workers=settings.workers, pin_memory=device.type == "cuda", prefetch=settings.prefetch
    )
    batches = profiled(loader, settings.profile_steps, run.path / "profile", device)
    loop = LoopSettings(
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
    # That a worker died may be noticed as late as in closing the monitor.
    with watchdog(60 * settings.timeout_minutes), loading_errors(), closing(monitor):
        outcome = train(
            state, batches, loop, device=device, monitor=monitor, evaluate=evaluate, checkpoints=run.checkpoints
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
        skip_unreadable=skips_unreadable(config.dataset),
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
