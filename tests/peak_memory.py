"""The memory that a call needs, without earlier peaks of the process."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path

import pytest

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def peak_growth_kb(call: Callable[[], object]) -> int:
    """Return by how many kilobytes the resident memory grew at most during the call."""
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # gives freed memory back, so that the call does not reuse it unseen
    try:
        CLEAR.write_text("5")  # resets the peak to the present size
    except OSError:
        pytest.skip("the peak of the resident memory cannot be reset here (Linux only)")
    before = _kilobytes("VmRSS")
    call()
    return _kilobytes("VmHWM") - before


def _kilobytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert found
    return int(found[1])
