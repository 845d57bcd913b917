"""The training loop: fetch, forward, backward, clip, step, schedule, log, evaluate, save, in this order."""

from __future__ import annotations

import logging
import math
import shlex
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detector.engine.checkpoint import load_checkpoint, load_weights, prune_checkpoints, save_checkpoint
from detector.engine.distributed import any_of, from_main, is_main, rank, world_size
from detector.engine.ema import Average, evaluated_weights
from detector.engine.gradients import accumulate_gradients, over_processes
from detector.engine.interrupt import Interrupt, Stopped
from detector.engine.memory import explaining_out_of_memory
from detector.engine.monitor import Monitor
from detector.engine.nonfinite import FiniteLoss
from detector.engine.optimizer import match_layouts
from detector.engine.seed import seed_step
from detector.engine.watchdog import heartbeat
from detector.model import Detector
from detector.structures import Batch

log = logging.getLogger("detector")

# Takes the state and the current number of steps to train; returns the new number. Called after every step.
PaceControl = Callable[["TrainingState", int], int]

# Takes the step, returns the figure that selects the best checkpoint. Called in all processes; the main one's counts.
Evaluate = Callable[[int], float]


class Outcome(Enum):
    """How a training loop ended."""

    done = "done"
    interrupted = "interrupted"


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """The settings of the training loop."""

    max_steps: int
    max_minutes: float | None
    seed: int
    precision: str  # fp32 | bf16 | fp16
    clip_norm: float | None
    eval_every: int  # steps; 0: only at the end
    checkpoint_every: int
    keep_every: int  # steps; 0: keep only last and best
    keep_newest: int | None = None  # number of numbered checkpoints to keep; None: all
    micro_batches: int = 1  # per process and step, one after the other
    patience: int | None = None  # stop after this many evaluations without a better figure
    on_nonfinite: str = "stop"  # stop | skip | rollback


class TrainingState:
    """Everything that a checkpoint saves and a resumed run loads."""

    def __init__(
        self,
        *,
        detector: Detector,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LambdaLR,
        scaler: torch.amp.GradScaler,
        about: dict[str, Any],
        average: Average | None = None,
    ) -> None:
        """`about` (config, classes, versions) goes into every checkpoint."""
        self.detector = detector
        self.optimizer = optimizer
        self.schedule = schedule
        self.scaler = scaler
        self.about = about
        self.average = average
        self.step = 0
        self.best = -math.inf
        self.stale = 0  # evaluations since the best figure
        self.evaluated_step = 0  # the step of the last completed evaluation

    @property
    def evaluated_detector(self) -> Detector:
        """The detector to evaluate: the one with averaged weights if there is one."""
        return self.detector if self.average is None else self.average.detector

    def advance(self) -> None:
        """Count one step and advance the learning rate, also for a skipped step."""
        with warnings.catch_warnings():
            # torch warns of a scheduler called before the optimizer. This happens if fp16 overflows in the first step.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            self.schedule.step()
        self.step += 1

    def save(self, path: Path) -> None:
        """Write a checkpoint, in the main process."""
        if not is_main():
            return
        save_checkpoint(
            path,
            {
                **self.about,
                "step": self.step,
                "best": self.best,
                "stale": self.stale,
                "evaluated": self.evaluated_step,
                "model": self.detector.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict(),
                "average": None if self.average is None else self.average.detector.state_dict(),
            },
        )

    def load(self, content: dict[str, Any], source: str) -> None:
        """Restore the state from `content` (from `load_checkpoint`). Raises ValueError if it does not fit."""
        load_weights(self.detector, content["model"], source)
        if self.average is not None:
            load_weights(self.average.detector, evaluated_weights(content), source)
        self._load_optimizer(content["optimizer"], source)
        match_layouts(self.optimizer)
        self.schedule.load_state_dict(content["schedule"])
        if content["scaler"]:  # empty if the run did not use fp16
            self.scaler.load_state_dict(content["scaler"])
        self.step, self.best, self.stale = content["step"], content["best"], content.get("stale", 0)
        self.evaluated_step = content.get("evaluated", self.step)

    def _load_optimizer(self, saved: dict[str, Any], source: str) -> None:
        """Restore the optimizer. Raises ValueError if it is of another kind or has other parameter groups."""
        is_adam = ["betas" in optimizer["param_groups"][0] for optimizer in (saved, self.optimizer.state_dict())]
        try:
            if is_adam[0] != is_adam[1]:
                raise ValueError("it is of another kind")
            self.optimizer.load_state_dict(saved)
        except ValueError as error:
            raise ValueError(
                f"resume={source}: the run's optimizer does not fit ({error}); keep the run's settings of optimizer "
                f"and trainer.trained, or start a new run with weights={source}"
            ) from error

    def roll_back(self, path: Path) -> None:
        """Load weights and optimizer state from the checkpoint `path`. Step and schedule keep their values."""
        step, best, stale, schedule = self.step, self.best, self.stale, self.schedule.state_dict()
        self.load(load_checkpoint(path), str(path))
        self.step, self.best, self.stale = step, best, stale
        self.schedule.load_state_dict(schedule)


def train(
    state: TrainingState,
    batches: Iterable[Batch],
    settings: LoopSettings,
    *,
    device: torch.device,
    monitor: Monitor,
    evaluate: Evaluate,
    checkpoints: Path,
    pace: PaceControl | None = None,
) -> Outcome:
    """Train until max_steps, max_minutes, patience or a signal. `batches` must start at the state's step and not end.

    `pace` may change the number of steps after every step.
    With several processes, each calls this with its share of every batch.
    """
    accumulate = partial(
        accumulate_gradients,
        over_processes(state.detector),
        micro_batches=settings.micro_batches,
        scaler=state.scaler,
        device=device,
        precision=settings.precision,
    )
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    finite = FiniteLoss(
        settings.on_nonfinite,
        folder=checkpoints.parent,
        detector=state.detector,
        precision=settings.precision,
        checkpoint=checkpoints / "last.pt",
        roll_back=state.roll_back,
    )
    deadline = time.monotonic() + 60 * settings.max_minutes if settings.max_minutes else math.inf
    max_steps = settings.max_steps
    state.detector.train()
    with Interrupt() as interrupt:
        outcome = _finish_step(state, settings, evaluate, checkpoints, interrupt)
        if outcome is not None:
            return outcome
        for batch in monitor.waiting(batches):
            heartbeat()
            batch = batch.to(device, non_blocking=True)
            seed_step(settings.seed, state.step, rank())
            state.optimizer.zero_grad(set_to_none=True)
            with explaining_out_of_memory(batch):
                losses = accumulate(batch)
            lr = state.optimizer.param_groups[0]["lr"]
            reading = (monitor.log_every, settings.eval_every, settings.checkpoint_every, settings.keep_every)
            due = any(_due(state.step + 1, every) for every in reading)
            if finite.passes(state.step + 1, batch, losses, lr, reading=due):
                if settings.clip_norm is not None:
                    state.scaler.unscale_(state.optimizer)
                    nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
                state.scaler.step(state.optimizer)
                state.scaler.update()
                if state.average is not None:
                    state.average.update(state.detector, state.step + 1)
            state.advance()
            monitor.step(state.step, losses, lr, len(batch), state.scaler)
            if pace is not None:
                max_steps = pace(state, max_steps)
                monitor.set_total(max_steps)

            signalled, late = any_of(interrupt.requested is not None, time.monotonic() >= deadline)
            finished = state.step >= max_steps or late
            to_evaluate = finished or _due(state.step, settings.eval_every)
            if to_evaluate and not signalled:
                signalled = _evaluate(state, evaluate, checkpoints, interrupt)
                finished |= _exhausted(state, settings)
                monitor.resume_clock()
            elif signalled or _due(state.step, settings.checkpoint_every):
                state.save(checkpoints / "last.pt")
            _keep(state, settings, checkpoints)
            if signalled:
                return _interrupted(state, checkpoints, interrupt, in_evaluation=to_evaluate)
            if finished:
                break
    return Outcome.done


def _finish_step(
    state: TrainingState, settings: LoopSettings, evaluate: Evaluate, checkpoints: Path, interrupt: Interrupt
) -> Outcome | None:
    """Complete the last step of a resumed run: a kill may have stopped its evaluation or its numbered checkpoint.

    Returns the outcome if training ends with it.
    """
    finished, signalled = state.step >= settings.max_steps or _exhausted(state, settings), False
    if finished or (_due(state.step, settings.eval_every) and state.evaluated_step < state.step):
        signalled = _evaluate(state, evaluate, checkpoints, interrupt)
        finished = finished or _exhausted(state, settings)
    _keep(state, settings, checkpoints)
    if signalled:
        return _interrupted(state, checkpoints, interrupt, in_evaluation=True)
    return Outcome.done if finished else None


def _keep(state: TrainingState, settings: LoopSettings, checkpoints: Path) -> None:
    """Save the numbered checkpoint of this step if one is due."""
    if _due(state.step, settings.keep_every):
        state.save(checkpoints / f"step_{state.step:07d}.pt")
        if is_main():
            prune_checkpoints(checkpoints, settings.keep_newest)


def _interrupted(state: TrainingState, checkpoints: Path, interrupt: Interrupt, *, in_evaluation: bool) -> Outcome:
    """Log what is saved and how to go on after a signal."""
    name = interrupt.requested or "a signal to another process"
    last, again = checkpoints / "last.pt", shlex.join(["detector", "train", f"resume={checkpoints.parent}"])
    how = f"; for its scores, and the report of a planned run: {again}" if in_evaluation else ""
    log.info("%s: saved step %d to %s%s", name, state.step, last, how)
    return Outcome.interrupted


def _evaluate(state: TrainingState, evaluate: Evaluate, checkpoints: Path, interrupt: Interrupt) -> bool:
    """Evaluate. Save `last` before, so that a failed evaluation loses no steps, and again with the figure.

    Returns True after a signal. It stops the evaluation, unless there are several processes: the others wait for it.
    """
    state.save(checkpoints / "last.pt")
    try:
        with interrupt.at_once() if world_size() == 1 else nullcontext():
            figure = from_main(evaluate(state.step))
    except Stopped:
        return True
    again, state.evaluated_step = state.evaluated_step == state.step, state.step
    if figure <= state.best:
        state.stale += not again
    else:
        state.stale = 0
        state.best = figure
        state.save(checkpoints / "best.pt")
    state.save(checkpoints / "last.pt")
    return any_of(interrupt.requested is not None)[0]


def _exhausted(state: TrainingState, settings: LoopSettings) -> bool:
    """Whether the last `patience` evaluations brought no better figure."""
    stop = settings.patience is not None and state.stale >= settings.patience
    if stop:
        log.info("no better figure than %.4f in %d evaluations: stopping early", state.best, state.stale)
    return stop


def _due(step: int, every: int) -> bool:
    return 0 < every <= step and step % every == 0
