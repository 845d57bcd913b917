"""The gradient of one step's mean loss over all images of all micro-batches and processes.

A loss is a sum divided by a count over the whole step, so the processes exchange the counts before the backward pass.
Then N processes, or M micro-batches, compute the same gradient as one process with all the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detector.engine.distributed import summed_by_name, world_size
from detector.engine.precision import autocast
from detector.model import Detector
from detector.structures import Batch, Losses


def over_processes(detector: nn.Module) -> nn.Module:
    """Wrap the detector in DistributedDataParallel if there are several processes.

    Every trained parameter gets a gradient in every step, even without objects, so `find_unused_parameters` is off.
    """
    return detector if world_size() == 1 else DistributedDataParallel(detector, gradient_as_bucket_view=True)


def accumulate_gradients(
    model: nn.Module,
    batch: Batch,
    *,
    micro_batches: int,
    scaler: torch.amp.GradScaler,
    device: torch.device,
    precision: str,
) -> Losses:
    """Add the (scaled) gradient to every `.grad`. Return this process's share of the step's losses.

    `model` is a `Detector` or the result of `over_processes`.
    """
    shares = batch.split(micro_batches)
    loss_normalizers = None
    if len(shares) > 1:  # the first backward pass needs the counts of all micro-batches
        detector = cast("Detector", model.module if isinstance(model, DistributedDataParallel) else model)
        with autocast(device, precision):
            loss_normalizers = summed_by_name(_added([detector.loss_normalizers(share) for share in shares]))
    done = []
    for number, share in enumerate(shares, start=1):
        last = number == len(shares)
        with model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext():
            with autocast(device, precision):
                losses: Losses = model(share)
            losses = losses.divided_by(loss_normalizers or summed_by_name(losses.loss_normalizers()))
            # DistributedDataParallel averages gradients over processes; the factor turns the mean into the sum.
            scaler.scale(losses.total() * world_size()).backward()
        done.append(losses)
    return Losses.joined(done)


def _added(counts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([count[name] for count in counts]).sum() for name in counts[0]}
