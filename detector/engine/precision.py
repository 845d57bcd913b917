"""Mixed precision by name: what runs in float32, bfloat16 or float16."""

from __future__ import annotations

import torch

NARROW = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a forward pass of `precision` (fp32, bf16 or fp16) runs."""
    narrow = NARROW.get(precision)
    return torch.autocast(device.type, narrow, enabled=narrow is not None)
