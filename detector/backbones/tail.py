"""Two fully connected layers on each pooled RoI: the tail that any backbone may choose."""

from __future__ import annotations

from torch import nn


def fc_tail(in_channels: int, pooled_size: int, channels: int) -> nn.Sequential:
    """[R, in_channels, S, S] -> [R, channels], S = pooled_size; features flattened in C, H, W order."""
    tail = nn.Sequential(
        nn.Flatten(),
        nn.Linear(in_channels * pooled_size**2, channels),
        nn.ReLU(inplace=True),
        nn.Linear(channels, channels),
        nn.ReLU(inplace=True),
    )
    init_linear(tail)
    return tail


def init_linear(layers: nn.Sequential) -> None:
    """Draws every linear layer's weights so that the variance survives the ReLU after it (He et al. 2015)."""
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
