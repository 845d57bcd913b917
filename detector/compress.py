"""Model compression with (almost) the same output: truncated SVD of fully connected layers, and folded norms.

Truncated SVD replaces a layer [out, in] by two layers of rank t: [t, in] without a bias, then [out, t] with one. They
need t (in + out) products instead of in x out. Source: Fast R-CNN 3.1.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from detector.backbones.norms import FrozenBatchNorm2d, conv_norm


def linear_layers(tail: nn.Module) -> dict[str, nn.Linear]:
    """Return the fully connected layers of a tail by name, in order."""
    return {name: layer for name, layer in tail.named_children() if isinstance(layer, nn.Linear)}


def factorize(tail: nn.Module, ranks: tuple[int, ...]) -> None:
    """Replace each fully connected layer of `tail` by a pair of layers of the given rank, with random weights.

    Rank 0 keeps the layer. Raises ValueError if the ranks do not fit the layers.
    """
    layers = linear_layers(tail)
    if len(ranks) != len(layers):
        raise ValueError(
            f"expected one rank for each of the tail's {len(layers)} fully connected layers, got {len(ranks)} "
            f"({', '.join(map(str, ranks))}); use 0 to keep a layer unchanged"
        )
    for (name, layer), rank in zip(layers.items(), ranks, strict=True):
        full = min(layer.in_features, layer.out_features)
        if not 0 <= rank <= full:
            raise ValueError(f"expected a rank from 0 (unchanged) to {full} for layer {name} of the tail, got {rank}")
        if rank > 0:
            setattr(tail, name, _pair(layer, rank))


class SVD:
    """The SVD of each fully connected layer of a tail. It gives compressed tails of any ranks."""

    def __init__(self, tail: nn.Module) -> None:
        """Compute the SVD of each layer. This is slow: half a minute for VGG16's fc6."""
        self.layers = linear_layers(tail)
        self.parts = {
            name: torch.linalg.svd(layer.weight.detach().float(), full_matrices=False)
            for name, layer in self.layers.items()
        }

    def truncate(self, tail: nn.Module, ranks: tuple[int, ...]) -> None:
        """Compress `tail`, which has the same layers, in place: the best approximation of each layer at its rank."""
        factorize(tail, ranks)
        for (name, layer), rank in zip(self.layers.items(), ranks, strict=True):
            if rank == 0:
                continue
            left, values, right = self.parts[name]
            first, second = tail.get_submodule(f"{name}.0"), tail.get_submodule(f"{name}.1")
            assert isinstance(first, nn.Linear)
            assert isinstance(second, nn.Linear)
            with torch.no_grad():
                first.weight.copy_(right[:rank])
                second.weight.copy_(left[:, :rank] * values[:rank])
                second.bias.copy_(layer.bias)


def _pair(layer: nn.Linear, rank: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(layer.in_features, rank, bias=False), nn.Linear(rank, layer.out_features))


def fold_norms(module: nn.Module) -> None:
    """Fold each frozen batch norm into the convolution before it, in place. The output does not change.

    The pairs are neighbours in a sequence, have matching names (conv1, bn1), or are in the graph of a traced backbone.
    """
    for owner in list(module.modules()):
        children = dict(owner.named_children())
        if isinstance(owner, torch.fx.GraphModule):
            pairs = _traced_pairs(owner)
        elif isinstance(owner, nn.Sequential):
            names = list(children)
            pairs = list(pairwise(names))
        else:
            pairs = [(name, f"bn{name.removeprefix('conv')}") for name in children if name.startswith("conv")]
        for first, second in pairs:
            conv, norm = _get(owner, first), _get(owner, second)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, FrozenBatchNorm2d):
                _fold(conv, norm)
                _set(owner, second, nn.Identity())


def _fold(conv: nn.Conv2d, norm: FrozenBatchNorm2d) -> None:
    scale, shift = norm.affine()
    with torch.no_grad():
        bias = shift if conv.bias is None else shift + conv.bias * scale
        conv.weight.mul_(scale[:, None, None, None])
        conv.bias = nn.Parameter(bias.clone(), requires_grad=False)


def _traced_pairs(body: torch.fx.GraphModule) -> list[tuple[str, str]]:
    """Return the paths of each convolution and its frozen norm in the `conv_norm` calls of a traced backbone."""
    return [
        (str(node.args[1].target), str(node.args[2].target))
        for node in body.graph.nodes
        if node.op == "call_function" and node.target is conv_norm
    ]


def _get(owner: nn.Module, path: str) -> nn.Module | None:
    try:
        return owner.get_submodule(path)
    except AttributeError:
        return None


def _set(owner: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(owner.get_submodule(parent), name, module)
