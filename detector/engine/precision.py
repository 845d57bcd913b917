"""Mixed precision: float32, bfloat16 or float16, chosen by name or by the machine."""

from __future__ import annotations

from functools import cache

import torch

NARROW = {"bf16": torch.bfloat16, "fp16": torch.float16}


def decided(device: torch.device, precision: str) -> str:
    """Return fp32, bf16 or fp16. `auto` becomes bf16 on a machine with bf16 hardware, else fp32."""
    if precision != "auto":
        return precision
    return "bf16" if has_bf16(device) else "fp32"


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 in hardware. Without hardware, bf16 is slower than fp32."""
    return torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else cpu_has_bf16()


@cache
def cpu_has_bf16() -> bool:
    """Whether the CPU has AVX512-BF16, AMX or Arm's bf16 instructions."""
    if not hasattr(torch.cpu, "get_capabilities"):  # before torch 2.12
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a forward pass of `precision` (fp32, bf16, fp16 or auto) runs."""
    narrow = NARROW.get(decided(device, precision))
    return torch.autocast(device.type, narrow, enabled=narrow is not None)
