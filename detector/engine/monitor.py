"""The progress bar, the log and the TensorBoard scalars of a run.

Losses are summed on the device and read on logging steps only. With several processes, each sums its own losses, and
the main process writes the total.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm.auto import tqdm

from detector.engine.distributed import is_main, summed, world_size
from detector.engine.progress import is_watched
from detector.engine.watch import Watch
from detector.structures import Losses

log = logging.getLogger("detector")
T = TypeVar("T")


class Monitor:
    """The log of a training: TensorBoard, the progress bar, and the checks of the losses."""

    def __init__(self, folder: Path, *, first_step: int, max_steps: int, log_every: int) -> None:
        """`folder` receives TensorBoard's files. TensorBoard hides what an earlier run wrote after `first_step`.

        Only the main process has a writer and a visible progress bar.
        """
        self.writer: SummaryWriter | None = None
        if is_main():
            self.writer = SummaryWriter(str(folder), purge_step=first_step + 1 if first_step else None)
        self.watch = Watch()
        self.bar = tqdm(
            disable=not is_main(),
            total=max_steps,
            initial=first_step,
            unit="step",
            dynamic_ncols=True,
            file=sys.stderr,
            mininterval=0.5 if is_watched() else 30,  # few lines in a log file
        )
        self.log_every = log_every
        self._sums: dict[str, Tensor] = {}
        self._steps = self._images = 0
        self._waited = 0.0
        self._since = time.perf_counter()

    def set_total(self, steps: int) -> None:
        """Show a new number of steps. Only `reset` changes the widget of a notebook, so it is called for every bar."""
        bar = self.bar
        if bar.disable or steps == bar.total:
            return
        done, started = bar.n, bar.start_t
        bar.reset(steps)
        bar.n = bar.last_print_n = done
        bar.start_t = started
        bar.refresh()

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches and add up the time spent waiting for them."""
        iterator = iter(batches)
        while True:
            start = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waited += time.perf_counter() - start
            yield batch

    def step(
        self, step: int, losses: Losses, lr: float, num_images: int, scaler: torch.amp.GradScaler | None = None
    ) -> None:
        """Count a finished step of `num_images` in this process. On logging steps, write the means since the last.

        With fp16, the factor of `scaler` is written as loss_scale.
        """
        self._steps += 1
        self._images += num_images * world_size()
        means = {name: mean.value() for name, mean in losses.means.items()}
        for name, value in {**losses.parts, **means, **losses.counts}.items():
            value = value.detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
        self.bar.update(1)
        if step % self.log_every == 0:
            self._write(step, lr, list(losses.parts), scaler)

    def _write(self, step: int, lr: float, loss_names: list[str], scaler: torch.amp.GradScaler | None) -> None:
        names = list(self._sums)
        sums = summed(torch.stack([self._sums[name].float() for name in names]))
        if self.writer is None:
            self.resume_clock()
            return
        # The one place where the host waits for the device.
        values = sums.div(self._steps).tolist()
        means = dict(zip(names, values, strict=True))
        if scaler is not None and scaler.is_enabled():
            means["loss_scale"] = scaler.get_scale()
        seconds = time.perf_counter() - self._since
        total = sum(means[name] for name in loss_names)
        wait_share = self._waited / seconds
        scalars = {
            "train/loss": total,
            **{f"train/{name}": value for name, value in means.items()},
            "train/lr": lr,
            "speed/images_per_s": self._images / seconds,
            "speed/data_wait_share": wait_share,
        }
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)
        status = f"loss {total:.3f} | {self._images / seconds:.1f} images/s | data wait {wait_share:.0%}"
        self.bar.set_postfix_str(status)
        log.debug("step %d: %s | %s | lr %.3g", step, status, " ".join(f"{k} {v:.4g}" for k, v in means.items()), lr)
        self.watch.look(step, means)
        self.resume_clock()

    def resume_clock(self) -> None:
        """Start a new interval for means and speed, for example after an evaluation."""
        self._sums, self._steps, self._images, self._waited = {}, 0, 0, 0.0
        self._since = time.perf_counter()

    def close(self) -> None:
        """Close the progress bar and TensorBoard's file."""
        self.bar.close()
        if self.writer is not None:
            self.writer.close()
