"""Fully connected layers in int8, on CPUs: weights are rounded once, to a scale per output, activations at each call.

The products are oneDNN's, of bytes with int32 sums, which processors with VNNI do several times as fast as float32.
Nothing is calibrated or trained, and convolutions stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detector.compress import linear_layers

LARGEST = 127  # of an int8, the same on both sides of 0
STEPS = 255  # of a byte
SMALLEST = torch.finfo(torch.float32).tiny


class Int8Linear(nn.Module):
    """A linear layer [R, in] -> [R, out] whose product is one of int8. It cannot be trained, copied or saved."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach().float()
        self.scale = (weight.abs().amax(dim=1) / LARGEST).clamp(min=SMALLEST)  # [out]
        self.zero = torch.zeros_like(self.scale, dtype=torch.int64)
        self.bias = None if layer.bias is None else layer.bias.detach().float()
        rounded = (weight / self.scale[:, None]).round().to(torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(rounded, None)

    def forward(self, features: Tensor) -> Tensor:
        """float32 [R, out]; the features' range, with 0, is cut into 255 steps of one size."""
        if features.shape[0] == 0:
            return features.new_zeros((0, len(self.scale)), dtype=torch.float32)
        low, high = (bound.item() for bound in features.float().aminmax())
        low, high = min(low, 0.0), max(high, 0.0)
        step = max((high - low) / STEPS, SMALLEST)
        zero = round(-low / step)
        rounded = (features * (1 / step)).round_().add_(zero).clamp_(0, STEPS).to(torch.uint8)
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded, step, zero, self.packed, self.scale, self.zero, self.bias, 1.0, 0, torch.float32, "none", [], ""
        )
        return product


def quantize_layers(tail: nn.Module) -> None:
    """Replaces the fully connected layers of a tail in place; for prediction on a CPU, after weights were loaded.

    Raises ValueError where there are none, they are not on the CPU, or this torch has no oneDNN.
    """
    layers = linear_layers(tail)
    if not layers:
        raise ValueError("int8 is for Fast R-CNN with fully connected layers per RoI, which this model has not")
    if not torch.backends.mkldnn.is_available():
        raise ValueError("int8 layers need a torch with oneDNN, which this one is not")
    for name, layer in layers.items():
        if layer.weight.device.type != "cpu":
            raise ValueError(f"int8 layers run on CPUs alone, but layer {name} is on {layer.weight.device}")
        setattr(tail, name, Int8Linear(layer))
