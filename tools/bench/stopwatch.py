"""What each part of a program takes, of time or of anything else that a meter reads, without what its inner parts take.

A part is a function called while the watch is on; `wrapped` puts the watch around an attribute of an object for as
long as a `with` block lasts.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Stopwatch:
    """Readings by part. `read` says what the meter shows now; it must have waited for all work given out before."""

    def __init__(self, read: Callable[[], float]) -> None:
        self.read = read
        self.spent: defaultdict[str, float] = defaultdict(float)
        self._inner: list[float] = []  # for each part that is running, what its inner parts took

    def run(self, part: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls `call` and books what it took, less what parts inside it took, under `part`."""
        start = self.read()
        self._inner.append(0.0)
        try:
            return call(*args, **kwargs)
        finally:
            taken = self.read() - start
            self.spent[part] += taken - self._inner.pop()
            if self._inner:
                self._inner[-1] += taken

    @contextmanager
    def wrapped(self, part: str, owner: Any, name: str) -> Iterator[None]:
        """Books every call of `owner.name` under `part`; the attribute is as before when the block ends."""
        own = vars(owner).get(name)
        call = getattr(owner, name)
        setattr(owner, name, functools.partial(self.run, part, call))
        try:
            yield
        finally:
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)
