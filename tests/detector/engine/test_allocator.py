"""The allocator keeps freed memory: a block that is used again causes no page faults."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
from detector.engine.allocator import keep_freed_memory
import torch

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(12_000_000)  # 48 MB, more than glibc ever keeps by default
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
by_default = faults()
assert keep_freed_memory()
for _ in range(20):  # the first eight blocks may be new: glibc keeps small rests between them
    faults()
print(by_default, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_a_block_that_is_used_again_causes_no_page_faults() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    by_default, kept = map(int, done.stdout.split())
    assert by_default > 1000, "otherwise the setting is not needed"
    assert kept < 100
