"""Environment of a score or a checkpoint: versions, commit, hardware, command line."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy
import torch

from detector.engine.distributed import world_size


def versions() -> dict[str, str]:
    """Return the environment as plain strings, for checkpoints and a run's history.json."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a plain string, because a checkpoint must contain no other class
        "torchvision": version("torchvision"),
        "numpy": numpy.__version__,
        "commit": commit(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "cpu": f"{cpu_name()}, {os.cpu_count()} cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "processes": str(world_size()),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def commit() -> str:
    """Return the short hash of the program's commit, marked if files have changes; "unknown" without a repository."""
    git = ["git", "-C", str(Path(__file__).resolve().parents[2])]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, timeout=5)
        dirty = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return head.stdout.strip() + (" with changes" if dirty.stdout.strip() else "") or "unknown"


def cpu_name() -> str:
    """Return the processor's name, and the vector instructions that torch uses on it."""
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    name = re.search(r"^model name\s*: (.+)$", info, re.MULTILINE)
    return f"{name.group(1)} ({torch.backends.cpu.get_cpu_capability()})" if name else platform.machine()
