"""Random seeds as a function of (seed, step, rank), so that a resumed run needs no saved generator state."""

from __future__ import annotations

import hashlib
import os

import torch


def derive(*parts: int | str) -> int:
    """A 63-bit seed that is a function of all parts."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's global generators, which dropout uses, for one training step."""
    torch.manual_seed(derive("step", seed, step, rank))


def make_deterministic() -> None:
    """Ask torch for deterministic algorithms everywhere; an operation without one raises."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it every matrix product on CUDA raises
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
