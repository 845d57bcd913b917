"""Where a torchvision classifier can be cut: the last block of each stride."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

import torch
from torch import nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

SIDE = 512  # of the image that strides are measured on; it is never computed


@cache
def nodes_by_stride(name: str) -> Mapping[int, str]:
    """The output of the last block at stride 2, 4, 8, 16 and 32 of a torchvision classifier, as far as it has them.

    A block is what torchvision names with one number, as features.13 or layer3.5. Networks whose maps are not
    [N, C, H, W] have none. Raises ValueError for a name that torchvision does not know.
    """
    network = _on_meta(name)
    blocks: dict[str, str] = {}  # block -> its last node in the graph
    for node in get_graph_node_names(network, suppress_diff_warning=True)[1]:
        parts = node.split(".")
        nested = parts[0] == "features" or len(parts) > 2
        blocks[".".join(parts[:2]) if nested else parts[0]] = node
    extractor = create_feature_extractor(
        network, {node: block for block, node in blocks.items()}, suppress_diff_warning=True
    )
    found: dict[int, str] = {}
    for block, maps in extractor(torch.empty(1, 3, SIDE, 2 * SIDE, device="meta")).items():
        # Rows by columns as the image has them: neither pooled to a fixed size nor with channels last.
        if maps.ndim != 4 or maps.shape[2] < 2 or maps.shape[3] // maps.shape[2] != 2:
            continue
        stride = 1 << round(math.log2(SIDE / maps.shape[2]))
        if stride in (2, 4, 8, 16, 32) and "pool" not in block:
            found[stride] = block
    return MappingProxyType(found)


def _on_meta(name: str) -> nn.Module:
    """The classifier without values."""
    if name not in models.list_models(module=models):
        raise ValueError(f"torchvision has no classifier {name!r}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # GoogLeNet's, on how it will be initialised
        with torch.device("meta"):
            network: nn.Module = models.get_model(name, weights=None)
    return network.eval()
