"""The memory that a call needs, without earlier peaks of the process."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path

import pytest

MMAP_THRESHOLD = -3  # malloc.h: M_MMAP_THRESHOLD
CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def peak_growth_kb(call: Callable[[], object]) -> int:
    """Return by how many kilobytes the resident memory grew at most during the call.

    The allocator of glibc keeps freed memory, the more the longer a process runs. So it gives back what it has before
    the call, and each block of 1 MiB or more when it is freed during the call.
    """
    gc.collect()
    libc = ctypes.CDLL(None)
    is_glibc = hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt")
    if is_glibc:
        libc.malloc_trim(0)
        libc.mallopt(MMAP_THRESHOLD, 1 << 20)
    try:
        CLEAR.write_text("5")  # resets the peak to the present size
    except OSError:
        pytest.skip("the peak of the resident memory cannot be reset here (Linux only)")
    before = _kilobytes("VmRSS")
    try:
        call()
        return _kilobytes("VmHWM") - before
    finally:
        if is_glibc:
            libc.mallopt(MMAP_THRESHOLD, 32 << 20)  # the largest that glibc chooses by itself


def _kilobytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert found
    return int(found[1])
