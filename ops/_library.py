"""Every operator's schema, in one table: the dispatcher knows them whether or not anything is compiled.

Each `ops/<name>.py` registers the PyTorch reference as the fallback kernel (CompositeExplicitAutograd), the fake
kernel, the autograd formula and the autocast rule. The compiled libraries add CPU and CUDA kernels and nothing else.
Public functions call `torch.ops.fast_rfcn.<op>`, never a compiled module directly.
"""

from __future__ import annotations

import torch

NAMESPACE = "fast_rfcn"

SCHEMAS: tuple[str, ...] = ()

LIBRARY = torch.library.Library(NAMESPACE, "DEF")
for _schema in SCHEMAS:
    LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))
