"""Measures the time of each part of a program, or another quantity of a meter, without the time of nested parts.

A part is a function that `Stopwatch.run` calls. `wrapped` measures all calls of an attribute of an object during a
`with` block.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Stopwatch:
    """Spent time by part. `read` reads the meter; it must first wait for all work that was started before."""

    def __init__(self, read: Callable[[], float]) -> None:
        self.read = read
        self.spent: defaultdict[str, float] = defaultdict(float)
        self._inner: list[float] = []  # for each running part, the time of its nested parts

    def run(self, part: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call `call` and add its own time, without nested parts, to `part`."""
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
        """Add the time of every call of `owner.name` to `part`. The attribute is restored at the end of the block."""
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
