"""Fully connected layers in int8, for CPUs. Weights are rounded once, with one scale per output; inputs at each call.

oneDNN multiplies the bytes with int32 sums. Processors with VNNI do this several times as fast as float32. There is no
calibration and no training, and convolutions do not change.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detector.compress import linear_layers

LARGEST = 127  # largest int8; -127 is the smallest that is used, so that the range is symmetric
STEPS = 255  # steps between the values of a byte
SMALLEST = torch.finfo(torch.float32).tiny


class Int8Linear(nn.Module):
    """A linear layer [R, in] -> [R, out] that multiplies in int8. It cannot be trained, copied or saved."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach().float()
        self.scale = (weight.abs().amax(dim=1) / LARGEST).clamp(min=SMALLEST)  # [out]
        self.zero = torch.zeros_like(self.scale, dtype=torch.int64)
        self.bias = None if layer.bias is None else layer.bias.detach().float()
        rounded = (weight / self.scale[:, None]).round().to(torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(rounded, None)

    def forward(self, features: Tensor) -> Tensor:
        """Return float32 [R, out]. The range of the features, extended to contain 0, has 255 equal steps."""
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
    """Replace the fully connected layers of a tail in place, after loading weights, for prediction on a CPU.

    Raises ValueError if the tail has no such layers, if they are not on the CPU, or if this torch has no oneDNN.
    """
    layers = linear_layers(tail)
    if not layers:
        raise ValueError("int8 needs a Fast R-CNN head with fully connected layers, and this model has none")
    if not torch.backends.mkldnn.is_available():
        raise ValueError("int8 needs a torch with oneDNN, and this torch has none; keep the layers in float32")
    for name, layer in layers.items():
        if layer.weight.device.type != "cpu":
            raise ValueError(
                f"int8 runs on CPUs only, got layer {name} on {layer.weight.device}; move the model to cpu"
            )
        setattr(tail, name, Int8Linear(layer))
