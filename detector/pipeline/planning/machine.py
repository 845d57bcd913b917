"""Properties of the computer that a plan depends on."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from detector.engine.precision import has_bf16


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine that trains."""

    device: str  # cpu | cuda
    cores: int  # cores that this process may use
    threads: int  # threads of torch
    fast_bf16: bool  # bf16 arithmetic in hardware
    memory_gib: float  # of the GPU; 0 without one

    def __str__(self) -> str:
        if self.device == "cuda":
            return f"a GPU with {self.memory_gib:.0f} GiB, {self.cores} cores"
        return (
            f"{self.threads} CPU thread{'s' * (self.threads != 1)}, bf16 {'in hardware' if self.fast_bf16 else 'slow'}"
        )


def inspect_machine(device: torch.device, threads: int | None) -> Machine:
    """Return the machine for a training on `device`. `threads` None means torch's default."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory / 2**30
        return Machine("cuda", cores, threads or torch.get_num_threads(), has_bf16(device), memory)
    return Machine("cpu", cores, threads or torch.get_num_threads(), has_bf16(device), 0.0)
