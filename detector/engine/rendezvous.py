"""How the processes of one start find each other, after whatever a start before it has left behind.

torchrun serves one store for all its starts (torch 2.15, `_create_c10d_store`: "We create a new TCPStore for every
retry" does not hold). After a restart a process would so find the addresses of killed ones, and be refused by them or
wait for them; which of the two ways a restart went was chance. The number of the restart is no help: with several
machines it counts those that began on each.
"""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

import torch.distributed as dist

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

PAUSE_S = 0.01  # between two looks at who has come


def store_of_this_start(store: Store, rank: int, world_size: int, timeout_s: float) -> Store:
    """A part of `store` that nobody has written to before, the same for all processes of this start.

    The first process names it. Every other one asks under a number that was never drawn before, so that no older answer
    is taken for its own, and says under the new name that it has come; the first one answers until all have.

    Raises ConnectionError where a process does not come within `timeout_s`.
    """
    name = _ask(store, rank) if rank > 0 else _answer(store, world_size, timeout_s)
    part: Store = dist.PrefixStore(name, store)  # type: ignore[attr-defined]  # torch exports it without saying so
    return part


def _ask(store: Store, rank: int) -> str:
    question = uuid.uuid4().hex
    store.set(f"question/{rank}", question)
    name = store.get(f"answer/{question}").decode()
    store.set(f"{name}/{rank}", "here")
    return name


def _answer(store: Store, world_size: int, timeout_s: float) -> str:
    name, deadline = uuid.uuid4().hex, time.monotonic() + timeout_s
    missing = list(range(1, world_size))
    while missing:
        for other in missing:
            if store.check([f"question/{other}"]):
                store.set(f"answer/{store.get(f'question/{other}').decode()}", name)
        missing = [other for other in missing if not store.check([f"{name}/{other}"])]
        if missing and time.monotonic() > deadline:
            raise ConnectionError(
                f"processes {', '.join(map(str, missing))} of {world_size} did not come within {timeout_s:g} s "
                "(trainer.timeout_minutes); see what they said"
            )
        time.sleep(PAUSE_S if missing else 0)
    return name
