"""Shapes of the maps that a network computes, without the time of computing them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

RESHAPES = (Tensor.view, Tensor.reshape, Tensor.unflatten, torch.reshape, torch.unflatten)


def dry_run(network: nn.Module, height: int, width: int) -> Any:
    """Return the output of `network` for images [N, 3, height, width]. N is 0 or 2, and no value means anything.

    The network does not change: it runs in its present mode with other weights and buffers, which may be on the meta
    device. Raises the network's AssertionError or RuntimeError if it does not take images of this size.
    """
    with torch.no_grad(), torch.device("cpu"), _WatchReshapes() as watch:  # whatever the default device is
        found = functional_call(network, _state(network, "cpu"), torch.empty(0, 3, height, width, dtype=torch.float32))
    if not watch.seen:
        return found
    # No values fit any shape. The meta device checks reshapes, but it needs torch's compiler: seconds to import.
    with torch.no_grad():
        return functional_call(
            network, _state(network, "meta"), torch.empty(2, 3, height, width, dtype=torch.float32, device="meta")
        )


def _state(network: nn.Module, device: str) -> dict[str, Tensor]:
    """Return weights and buffers without values for the network, in float32 like the images.

    On the CPU integers keep their values, since some are indices.
    """
    own = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {
        key: value.clone()
        if not (value.is_floating_point() or value.is_meta or device == "meta")
        else torch.empty(value.shape, dtype=torch.float32 if value.is_floating_point() else value.dtype, device=device)
        for key, value in own.items()
    }


class _WatchReshapes(TorchFunctionMode):
    """Context that notes whether a tensor gets another shape with the same values."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.seen |= func in RESHAPES
        return func(*args, **(kwargs or {}))
