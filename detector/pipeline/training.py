"""`detector train`: from a config to a trained detector, with mAP, checkpoints and TensorBoard logs."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from typing import Any

import torch

from detector.backbones.pyramid import COARSEST
from detector.backbones.timm import pretrained_normalisation
from detector.backbones.weights import torchvision_normalisation
from detector.build import architecture, build_loss
from detector.configs import schema
from detector.configs.compose import load_config
from detector.datasets.build import with_bit_depth
from detector.engine.allocator import keep_freed_memory
from detector.engine.checkpoint import remove_leftovers
from detector.engine.compile import compile_parts
from detector.engine.distributed import rank, world_size
from detector.engine.ema import Average
from detector.engine.monitor import Monitor
from detector.engine.precision import decided
from detector.engine.profile import profiled
from detector.engine.seed import make_deterministic
from detector.engine.trainer import LoopSettings, Outcome, PaceControl, TrainingState, train
from detector.engine.watch import warn_of_learning_rate
from detector.engine.watchdog import watchdog
from detector.model import Detector
from detector.pipeline.data import Data, open_data, training_view
from detector.pipeline.loaders import training_loader, training_order
from detector.pipeline.periodic_evaluation import PeriodicEvaluation
from detector.pipeline.run_folder import RunFolder, kernels, pick_device
from detector.pipeline.state import class_weights, initialise, new_detector, new_state
from detector.structures import Batch

log = logging.getLogger("detector")

PYRAMID_SCALES = [8.0]  # of proposals=rpn_fpn


# Plans the settings that depend on the time of a step: config, data, initial detector, device -> the config to train
# with, and the control that changes the number of steps during training (None: the number is fixed). It does not change
# the detector.
PlanSteps = Callable[[schema.Config, Data, Detector, torch.device], tuple[schema.Config, PaceControl | None]]


def run_training(
    config: schema.Config,
    run: RunFolder,
    resume: dict[str, Any] | None,
    *,
    plan_steps: PlanSteps | None = None,
    started: float | None = None,
) -> Outcome:
    """Train and write to `run`. `resume` is the checkpoint to resume from; None starts a new training.

    `plan_steps` may change the config after the data are read: how images are augmented, the loss, and the settings of
    the loop. None keeps it.
    `started` is `time.monotonic()` at the start of the command, from which `trainer.max_minutes` counts; None: now.
    """
    started = time.monotonic() if started is None else started
    if resume is None:
        config = normalised_for_weights(config)
    device = prepare_device(config.trainer)
    log.info("run folder %s | device %s%s | %s", run.path, device, _processes(), kernels(device))
    if config.trainer.precision == "auto":
        log.info("trainer.precision=auto: %s on this %s", decided(device, "auto"), device.type.upper())
    data = open_data(config, resume)
    config = replace(config, dataset=with_bit_depth(config.dataset, data.train_set))
    pace: PaceControl | None = None
    detector = new_detector(config, data, device)
    if resume is None:
        initialise(detector, config, data)
        if plan_steps is not None:
            config, pace = plan_steps(config, data, detector, device)
            detector.loss = build_loss(config.loss, class_weights(config, data)).to(device)
            data = replace(data, train_view=training_view(config, data.train_set, data.train_view.proposals))
    state = new_state(config, data, detector, device)
    if config.trainer.ema_decay is not None:
        state.average = Average(state.detector, config.trainer.ema_decay)
    if resume is not None:
        state.load(resume, str(config.resume))
        log.info("resuming from step %d", state.step)
    if config.trainer.compile:
        compile_parts(state.detector)
    monitor = Monitor(
        run.tensorboard,
        first_step=state.step,
        max_steps=config.trainer.max_steps,
        log_every=config.trainer.log_every,
    )
    evaluate = PeriodicEvaluation(config, run, state, data.test_set, data.test_view, monitor.writer, device, started)
    with (
        watchdog(60 * config.trainer.timeout_minutes),
        closing(monitor),
        training_batches(config, data, device, state.step, endless=pace is not None) as loaded,
        closing(profiled(loaded, config.trainer.profile_steps, run.path / "profile", device)) as batches,
    ):
        record_start(config, run, state, monitor)
        outcome = train(
            state,
            batches,
            loop_settings(config, since_start=0.0 if plan_steps is None else time.monotonic() - started),
            device=device,
            monitor=monitor,
            evaluate=evaluate,
            checkpoints=run.checkpoints,
            pace=pace,
        )
    log.info(
        "%s at step %d after %.1f minutes\n  pictures     %s\n  checkpoints  %s\n  metrics      %s\n  TensorBoard  %s",
        outcome.value,
        state.step,
        (time.monotonic() - started) / 60,
        run.pictures,
        run.checkpoints,
        run.path / "metrics.json",
        f"tensorboard --logdir {run.tensorboard}",
    )
    return outcome


def normalised_for_weights(config: schema.Config) -> schema.Config:
    """Return the config with the mean and deviation that the weights expect, unless the config already has others.

    timm's and torchvision's weights state them. Other weights keep the defaults.
    """
    backbone, usual = config.backbone, schema.InputConfig()
    given = config.input.bgr_255 or (config.input.mean, config.input.std) != (usual.mean, usual.std)
    if given or backbone.weights is None:
        return config
    name = architecture(backbone)
    is_timm = isinstance(backbone, schema.TimmConfig)
    expected = pretrained_normalisation(name) if is_timm else torchvision_normalisation(name, backbone.weights)
    if expected is None or expected == (usual.mean, usual.std):
        return config
    mean, std = expected
    library = "timm" if is_timm else "torchvision"
    log.info("input.mean=%s input.std=%s, as %s's weights of %s expect", mean, std, library, name)
    return replace(config, input=replace(config.input, mean=mean, std=std))


def prepare_device(settings: schema.TrainerConfig) -> torch.device:
    """Set threads and determinism as in `settings`, and the allocator. Return the device of `trainer.device`."""
    keep_freed_memory()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if settings.deterministic:
        make_deterministic()
    return pick_device(settings.device)


def record_start(config: schema.Config, run: RunFolder, state: TrainingState, monitor: Monitor) -> None:
    """Write the run's config and history, and remove incomplete files of an earlier start."""
    if monitor.writer is not None:
        monitor.writer.add_text("config", f"```yaml\n{run.write_config(config)}\n```", state.step)
        remove_leftovers(run.path)
        run.write_history(state.step)


def training_batches(
    config: schema.Config, data: Data, device: torch.device, first_step: int, *, endless: bool
) -> AbstractContextManager[Iterator[Batch]]:
    """Context with this process's part of every batch from `first_step` on.

    The batches end at `trainer.max_steps`, unless `endless` is True.
    """
    settings, annotations = config.trainer, data.train_set.annotations
    order = training_order(
        settings,
        annotations,
        first_step=first_step,
        last_step=sys.maxsize if endless else settings.max_steps,
        rank=rank(),
        world_size=world_size(),
    )
    return training_loader(
        data.train_view, order, workers=settings.workers, pin_memory=device.type == "cuda", prefetch=settings.prefetch
    )


def loop_settings(config: schema.Config, *, since_start: float) -> LoopSettings:
    """Return the settings of the training loop. `since_start` seconds of `trainer.max_minutes` are already used."""
    settings = config.trainer
    minutes = settings.max_minutes
    return LoopSettings(
        max_steps=settings.max_steps,
        max_minutes=None if minutes is None else max(0.01, minutes - since_start / 60),
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
    """Warn about a learning rate far from the experiment's or, without one, from the published one of fine-tuning."""
    if experiment is not None:
        recipe = load_config([f"experiment={experiment}"])
        optimizer, images = recipe.optimizer, recipe.trainer.images_per_step
    elif config.backbone.weights is not None:
        optimizer, images = type(config.optimizer)(), schema.TrainerConfig().images_per_step
    else:
        return  # no recipe exists for training from scratch
    if config.optimizer.kind == optimizer.kind:
        warn_of_learning_rate(
            config.optimizer.lr, config.trainer.images_per_step, recipe_lr=optimizer.lr, recipe_images=images
        )


def check_anchors(config: schema.Config) -> None:
    """Warn of the anchor scales of a pyramid with one map, and of those of one map with a pyramid."""
    if not isinstance(config.proposals, schema.RPNConfig):
        return
    pyramid, scales = isinstance(config.neck, schema.FPNConfig), config.proposals.scales
    if pyramid and scales == schema.RPNConfig().scales:
        log.warning(
            "proposals.scales=%s are meant for one map, but neck=fpn has several: their anchors have sides of up to %g "
            "pixels; set proposals=rpn_fpn, or proposals.scales",
            scales,
            COARSEST * max(scales),
        )
    elif not pyramid and scales == PYRAMID_SCALES:
        log.warning(
            "proposals.scales=%s is meant for the maps of neck=fpn; one map then has anchors of one size only: set "
            "neck=fpn, proposals=rpn, or proposals.scales",
            scales,
        )
