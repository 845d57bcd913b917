"""Several processes as one trainer: who this one is, and the few things that all of them have to agree on.

torchrun starts one process per device and says so in the environment; without it each function here is the identity
of a single process. Everything is called by every process in the same order, never depending on what one of them saw.
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
    """Context in which the processes that torchrun started form a group; a collective gives up after `timeout_s`.

    Values on the host go over gloo, which every machine has, values on a CUDA device over NCCL.

    Raises ConnectionError where another process was lost.
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
        dist.barrier()  # who leaves first would look like a failure to the others
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        told = f"another process of this run was lost, see what it said ({str(error).splitlines()[0]})"
        raise ConnectionError(told) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if _in_group() else 0


def world_size() -> int:
    return dist.get_world_size() if _in_group() else 1


def local_rank() -> int:
    """Which of this machine's processes, and so which of its devices."""
    return int(os.environ.get("LOCAL_RANK", 0))


def is_main() -> bool:
    """Whether this is the process that logs, draws and saves."""
    return rank() == 0


def summed(value: Tensor) -> Tensor:
    """The sum of every process's `value`, on its device, without waiting for it."""
    if world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


def summed_by_name(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same for scalars of the same names everywhere, in one exchange."""
    if world_size() == 1:
        return dict(values)
    totals = summed(torch.stack([value.float() for value in values.values()]))
    return dict(zip(values, totals.unbind(), strict=True))


def any_of(*flags: bool) -> list[bool]:
    """For each flag, whether it is set in any process. Host memory only: no device is waited for."""
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
    """This process's share of `items`, dealt like cards: over all processes each of them once."""
    return list(items[rank() :: world_size()])


def collected(share: Sequence[T], count: int) -> list[T] | None:
    """The `count` items whose shares `dealt` handed out, in their order; None in all but the main process."""
    if world_size() == 1:
        return list(share)
    shares: list[list[T]] | None = [[]] * world_size() if is_main() else None
    dist.gather_object(list(share), shares, dst=0)
    if shares is None:
        return None
    return [shares[index % world_size()][index // world_size()] for index in range(count)]


@contextmanager
def main_first() -> Iterator[None]:
    """Context that the main process passes before any other enters it: what it fetches or computes is kept on disk."""
    if not is_main():
        any_of(False)
    try:
        yield
    finally:
        if is_main():
            any_of(False)


def _in_group() -> bool:
    return dist.is_available() and dist.is_initialized()
