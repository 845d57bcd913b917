"""The training loop: fetch, forward, backward, clip, step, schedule, log, evaluate, save, in this order."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detector.engine.checkpoint import load_weights, save_checkpoint
from detector.engine.interrupt import Interrupt
from detector.engine.monitor import Monitor
from detector.engine.precision import autocast
from detector.engine.seed import seed_step
from detector.structures import Batch, Losses

log = logging.getLogger("detector")

# Evaluates the detector after a number of steps and returns the figure that decides which checkpoint is best.
Evaluate = Callable[[int], float]


class NonFiniteLossError(ArithmeticError):
    """The loss became infinite or not a number."""


class Outcome(Enum):
    done = "done"
    interrupted = "interrupted"


@dataclass(frozen=True, slots=True)
class LoopSettings:
    max_steps: int
    max_minutes: float | None
    seed: int
    precision: str  # fp32 | bf16 | fp16
    clip_norm: float | None
    eval_every: int  # 0: only at the end
    checkpoint_every: int
    keep_every: int  # 0: keep none besides last and best


class TrainingState:
    """Everything that a resumed run needs: saved whole, loaded whole."""

    def __init__(
        self,
        *,
        detector: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LambdaLR,
        scaler: torch.amp.GradScaler,
        about: dict[str, Any],
    ) -> None:
        """`about` (config, classes, versions) is stored with every checkpoint, for whoever loads it."""
        self.detector = detector
        self.optimizer = optimizer
        self.schedule = schedule
        self.scaler = scaler
        self.about = about
        self.step = 0
        self.best = -math.inf

    def save(self, path: Path) -> None:
        save_checkpoint(
            path,
            {
                **self.about,
                "step": self.step,
                "best": self.best,
                "model": self.detector.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict(),
            },
        )

    def load(self, content: dict[str, Any], source: str) -> None:
        """Takes up where `content` (of `load_checkpoint`) left off. Raises ValueError where it does not fit."""
        load_weights(self.detector, content["model"], source)
        self.optimizer.load_state_dict(content["optimizer"])
        self.schedule.load_state_dict(content["schedule"])
        self.scaler.load_state_dict(content["scaler"])
        self.step, self.best = content["step"], content["best"]


def train(
    state: TrainingState,
    batches: Iterable[Batch],
    settings: LoopSettings,
    *,
    device: torch.device,
    monitor: Monitor,
    evaluate: Evaluate,
    checkpoints: Path,
    rank: int = 0,
) -> Outcome:
    """Trains until max_steps, max_minutes or a signal; `batches` start at the state's step and last long enough."""
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    deadline = time.monotonic() + 60 * settings.max_minutes if settings.max_minutes else math.inf
    state.detector.train()
    if state.step >= settings.max_steps:
        _evaluate(state, evaluate, checkpoints)  # nothing is left but what a kill may have cut short
        return Outcome.done
    with Interrupt() as interrupt:
        for batch in monitor.waiting(batches):
            batch = batch.to(device, non_blocking=True)
            seed_step(settings.seed, state.step, rank)
            with autocast(device, settings.precision):
                losses: Losses = state.detector(batch)
                total = losses.total()
            reading = (monitor.log_every, settings.eval_every, settings.checkpoint_every, settings.keep_every)
            if device.type == "cpu" or any(_due(state.step + 1, every) for every in reading):
                _require_finite(losses, batch, state.step + 1)  # on a GPU this waits: only before logging or saving
            state.optimizer.zero_grad(set_to_none=True)
            state.scaler.scale(total).backward()
            if settings.clip_norm is not None:
                state.scaler.unscale_(state.optimizer)
                nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
            lr = state.optimizer.param_groups[0]["lr"]
            state.scaler.step(state.optimizer)
            state.scaler.update()
            state.schedule.step()
            state.step += 1
            monitor.step(state.step, losses, lr, len(batch))

            finished = state.step >= settings.max_steps or time.monotonic() >= deadline
            if finished or _due(state.step, settings.eval_every):
                _evaluate(state, evaluate, checkpoints)
                monitor.resume_clock()
            elif interrupt.requested or _due(state.step, settings.checkpoint_every):
                state.save(checkpoints / "last.pt")
            if _due(state.step, settings.keep_every):
                state.save(checkpoints / f"step_{state.step:07d}.pt")
            if interrupt.requested:
                log.info("%s: saved step %d to %s", interrupt.requested, state.step, checkpoints / "last.pt")
                return Outcome.interrupted
            if finished:
                break
    return Outcome.done


def _evaluate(state: TrainingState, evaluate: Evaluate, checkpoints: Path) -> None:
    """Evaluates. `last` is saved before, so that nothing in an evaluation can cost steps, and again with a new best."""
    state.save(checkpoints / "last.pt")
    figure = evaluate(state.step)
    if figure > state.best:
        state.best = figure
        state.save(checkpoints / "best.pt")
        state.save(checkpoints / "last.pt")


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _require_finite(losses: Losses, batch: Batch, step: int) -> None:
    if torch.isfinite(losses.total()):
        return
    parts = ", ".join(f"{name} {value.item():.4g}" for name, value in losses.parts.items())
    raise NonFiniteLossError(
        f"the loss is not finite at step {step} ({parts}) on images {', '.join(batch.image_ids)}; "
        "the last checkpoint is whole: lower optimizer.lr, lengthen schedule.warmup_steps or set optimizer.clip_norm"
    )
