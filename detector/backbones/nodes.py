"""The last block of each stride in a torchvision classifier, as candidates for feature maps."""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from detector.backbones.dry_run import dry_run
from detector.backbones.torchvision_library import create_feature_extractor, get_graph_node_names, models

SIDE = 512  # shorter side of the image that strides are measured with
ASPECT = 3  # longer side / shorter side; with 2, Swin's channels look like columns
FIXED_SIZE = (models.VisionTransformer, models.MaxVit)  # 224 x 224 by default


@cache
def nodes_by_stride(name: str) -> Mapping[int, str]:
    """Return stride -> output node of the last block, for the strides 2, 4, 8, 16 and 32 that the classifier has.

    A block has a name with one number in torchvision, such as features.13 or layer3.5. Maps are [N, C, H, W], or
    [N, H, W, C] in Swin. Raises ValueError as `require_classifier` and `require_any_size` do.
    """
    network = classifier_without_values(name)
    require_any_size(name, network)
    found: dict[int, str] = {}
    for block, maps in _block_outputs(network).items():
        rows = _rows(maps)
        if rows is None:
            continue
        stride = 1 << round(math.log2(SIDE / rows))
        if stride in (2, 4, 8, 16, 32) and "pool" not in block:
            found[stride] = block
    return MappingProxyType(found)


def require_any_size(name: str, classifier: nn.Module) -> None:
    """Raise ValueError if the classifier takes images of one size only. torch would print a long trace about it."""
    if isinstance(classifier, FIXED_SIZE):
        raise ValueError(
            f"torchvision's {name} takes images of 224 x 224 only and cannot be a detector's backbone; take a network "
            "for images of any size, such as backbone.name=swin_t or convnext_tiny"
        )


def _block_outputs(network: nn.Module) -> Mapping[str, Tensor]:
    """Return the output of each block's last node, without values, for an image of SIDE x ASPECT * SIDE."""
    blocks: dict[str, str] = {}  # block -> its last node in the graph
    for node in get_graph_node_names(network, suppress_diff_warning=True)[1]:
        parts = node.split(".")
        in_stage = len(parts) > 2 and isinstance(network.get_submodule(parts[0]), nn.Sequential)
        nested = parts[0] == "features" or in_stage  # Inception's blocks have branches, and no stage around them
        blocks[".".join(parts[:2]) if nested else parts[0]] = node
    extractor = create_feature_extractor(
        network, {node: block for block, node in blocks.items()}, suppress_diff_warning=True
    )
    outputs: Mapping[str, Tensor] = dry_run(extractor, SIDE, ASPECT * SIDE)
    return outputs


def _rows(maps: Tensor) -> int | None:
    """Return the number of rows of maps with the aspect of the image; None for maps pooled to a fixed size."""
    if maps.ndim != 4:
        return None
    for height, width in ((2, 3), (1, 2)):  # channels first, channels last
        if maps.shape[height] >= 2 and maps.shape[width] // maps.shape[height] == ASPECT:
            return maps.shape[height]
    return None


class _EmptyOnMeta(TorchFunctionMode):
    """Context in which weights are made on the meta device, and never initialised: that would load torch's compiler.

    Other tensors have values: RegNet computes widths with them.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        name = getattr(func, "__name__", "")
        filled = args[0] if args else kwargs.get("tensor")  # as torch.nn.init names it
        if name.endswith("_") and not name.endswith("__") and isinstance(filled, Tensor) and filled.is_meta:
            return filled
        return func(*args, **kwargs)


def require_classifier(name: str) -> None:
    """Raise ValueError with the nearest names if torchvision has no classifier of this name."""
    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"torchvision has no classifier {name!r}{nearest(name, known)}")


def nearest(name: str, known: Sequence[str]) -> str:
    """Return the end of a message about an unknown name: the nearest known names, or the first ones."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"; nearest: {', '.join(close)}" if close else f"; known: {', '.join(known[:20])}"


def classifier_without_values(name: str) -> nn.Module:
    """Return the classifier with weights on the meta device. Raises ValueError as `require_classifier` does."""
    require_classifier(name)
    with warnings.catch_warnings(), _EmptyOnMeta():
        warnings.simplefilter("ignore", FutureWarning)  # from GoogLeNet, about its initialisation
        network: nn.Module = models.get_model(name, weights=None)
    return network.eval()
