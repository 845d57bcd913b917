"""How the processes of one start find each other, although the store still holds values of an earlier start.

torchrun keeps one store for all restarts (torch 2.15, `_create_c10d_store`; its comment "We create a new TCPStore for
every retry" is wrong). So after a restart, a process may find the addresses of killed processes, and then fails or
waits for them. The restart number cannot tell the starts apart: each machine counts only its own restarts.
"""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

import torch.distributed as dist

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

PAUSE_S = 0.01  # between two checks for processes that arrived


def store_of_this_start(store: Store, rank: int, world_size: int, timeout_s: float) -> Store:
    """A new, empty part of `store`, the same for all processes of this start.

    Process 0 chooses a name for it. Each other process asks for the name with a new random key, so that it cannot take
    an old answer for its own, and then reports its arrival under the new name. Process 0 answers until all arrived.

    Raises ConnectionError if a process does not arrive within `timeout_s`.
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
                f"processes {', '.join(map(str, missing))} of {world_size} did not start within {timeout_s:g} s "
                "(trainer.timeout_minutes); read their output for the cause"
            )
        time.sleep(PAUSE_S if missing else 0)
    return name
