"""The C library's memory allocator, set for a program that needs the same large blocks in every step."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt, see `man mallopt`
LARGEST_TRIM, LARGEST_BLOCK = 2**31 - 1, 2**30  # bytes; glibc takes no larger ones


def keep_freed_memory() -> bool:
    """Keep freed memory of this process for its next step. Return False if the C library is not glibc.

    By default glibc returns large blocks to the system. The next step gets them back as pages that the system has to
    clear first, one page fault each: up to a sixth of a training step on a CPU. The price is memory: a block's first
    eight uses can take new memory each, because glibc looks for a slightly larger gap than an aligned block leaves.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGEST_BLOCK)) and bool(mallopt(TRIM_THRESHOLD, LARGEST_TRIM))
