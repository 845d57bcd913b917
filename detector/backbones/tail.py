"""A tail for every backbone: two fully connected layers on each pooled RoI."""

from __future__ import annotations

from torch import nn


def fc_tail(in_channels: int, pooled_size: int, channels: int) -> nn.Sequential:
    """Return the tail [R, in_channels, S, S] -> [R, channels], S = pooled_size. Features are flattened as C, H, W."""
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
    """Initialise every linear layer so that layer and ReLU together keep the variance (He et al. 2015)."""
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
