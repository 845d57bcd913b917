"""Processes of one start find each other in a store that still holds the keys of an earlier start."""

import threading
from collections.abc import Sequence

import pytest
import torch.distributed as dist

from detector.engine.rendezvous import store_of_this_start


def begin(store: dist.Store, ranks: Sequence[int], world_size: int, timeout_s: float = 20.0) -> dict[int, dist.Store]:
    """Return the stores of `ranks`. Each is found in its own thread."""
    found: dict[int, dist.Store] = {}

    def find(rank: int) -> None:
        found[rank] = store_of_this_start(store, rank, world_size, timeout_s)

    threads = [threading.Thread(target=find, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_a_later_start_sees_nothing_of_an_earlier_one(order: Sequence[int]) -> None:
    store = dist.HashStore()
    for start in range(3):
        found = begin(store, order, 3)
        assert all(not found[rank].check([f"address/{other}"]) for rank in range(3) for other in range(3))
        for rank in range(3):
            found[rank].set(f"address/{rank}", f"{start}/{rank}")
        read = [[found[rank].get(f"address/{other}").decode() for other in range(3)] for rank in range(3)]
        assert read == [[f"{start}/{other}" for other in range(3)]] * 3


def test_the_keys_of_an_interrupted_start_are_ignored() -> None:
    """One process asked and was killed before the answer came. Another never started."""
    store = dist.HashStore()
    store.set("question/1", "asked by the dead")
    with pytest.raises(ConnectionError, match="processes 1, 2 of 3 did not start within 0.1 s"):
        store_of_this_start(store, 0, 3, 0.1)
    found = begin(store, range(3), 3)
    found[0].set("key", "value")
    assert found[1].get("key") == found[2].get("key") == b"value"


def test_a_single_process_does_not_wait() -> None:
    store = store_of_this_start(dist.HashStore(), 0, 1, 0.0)
    store.set("key", "value")
    assert store.get("key") == b"value"
