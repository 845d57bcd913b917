"""Data-parallel training: rank and world size, and the collective operations that the trainer uses.

torchrun starts one process per device and sets environment variables. Without torchrun there is one process, and each
function here returns its input. All processes must call the collectives in the same order, whatever their data is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from detector.engine.rendezvous import store_of_this_start

T = TypeVar("T")


@contextmanager
def process_group(device: torch.device, timeout_s: float) -> Iterator[None]:
    """Context in which the processes of torchrun form a process group. A collective fails after `timeout_s`.

    Tensors on the CPU use gloo, which every machine has. Tensors on a CUDA device use NCCL.

    Raises ConnectionError if another process is lost.
    """
    if "WORLD_SIZE" not in os.environ or not dist.is_available() or dist.is_initialized():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        timeout = timedelta(seconds=timeout_s)
        store, own, count = next(dist.rendezvous("env://", timeout=timeout))  # type: ignore[attr-defined]
        store.set_timeout(timeout)
        shared = store_of_this_start(store, own, count, timeout_s)
        dist.init_process_group(backend, store=shared, rank=own, world_size=count, timeout=timeout)
        yield
        dist.barrier()  # without it, the others take the first process that leaves for a failure
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        message = f"another process of this run was lost; read its output for the cause ({str(error).splitlines()[0]})"
        raise ConnectionError(message) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def rank() -> int:
    """Return the number of this process, from 0; 0 in a single process."""
    return dist.get_rank() if _in_group() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if _in_group() else 1


def local_rank() -> int:
    """The index of this process among those on the same machine; it is also the index of its device."""
    return int(os.environ.get("LOCAL_RANK", 0))


def is_main() -> bool:
    """Whether this is the process that logs, draws and saves."""
    return rank() == 0


def summed(value: Tensor) -> Tensor:
    """The sum of `value` over all processes, on the device of `value`. The host does not wait for the result."""
    if world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


def summed_by_name(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The sums of named scalars over all processes, in one collective. All processes have the same names."""
    if world_size() == 1:
        return dict(values)
    totals = summed(torch.stack([value.float() for value in values.values()]))
    return dict(zip(values, totals.unbind(), strict=True))


def any_of(*flags: bool) -> list[bool]:
    """For each flag, whether any process sets it. Uses CPU tensors only, so the host waits for no device."""
    if world_size() == 1:
        return list(flags)
    raised = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(raised, dist.ReduceOp.MAX)
    return [bool(flag) for flag in raised.tolist()]


def from_main(value: T) -> T:
    """The main process's `value`, in every process."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def dealt(items: Sequence[T]) -> list[T]:
    """This process's share of `items`: every n-th item for n processes, so that each item has one process."""
    return list(items[rank() :: world_size()])


def collected(share: Sequence[T], count: int) -> list[T] | None:
    """All `count` items in their original order, from the shares of `dealt`; None except in the main process."""
    if world_size() == 1:
        return list(share)
    shares: list[list[T]] | None = [[]] * world_size() if is_main() else None
    dist.gather_object(list(share), shares, dst=0)
    if shares is None:
        return None
    return [shares[index % world_size()][index // world_size()] for index in range(count)]


@contextmanager
def main_first() -> Iterator[None]:
    """Context that the main process leaves before the others enter. They find on disk what it downloads or computes."""
    if not is_main():
        any_of(False)
    try:
        yield
    finally:
        if is_main():
            any_of(False)


def _in_group() -> bool:
    return dist.is_available() and dist.is_initialized()
