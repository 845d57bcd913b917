"""Any torchvision classifier as a backbone, cut at a node of its graph."""

from __future__ import annotations

import difflib

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from detector.backbones.norms import make_norm, with_frozen_norms, without_training
from detector.backbones.tail import fc_tail
from detector.structures import FeatureMaps


class TorchvisionBackbone(nn.Module):
    def __init__(
        self,
        *,
        name: str,
        node: str,
        proposals_node: str | None,
        norm: str,
        frozen_nodes: str | None,
        tail: str | None,
        tail_channels: int,
        pooled_size: int,
    ) -> None:
        """`node` names the output that the head reads, `proposals_node` that of the proposals (None: the same).

        Everything up to and including `frozen_nodes` (a module name, for example features.3) is not trained.
        Raises ValueError for a name or node that torchvision does not know, naming the nearest ones.
        """
        super().__init__()
        classifier = _classifier(name)
        outputs = {node: "head", proposals_node or node: "proposals"}
        if proposals_node in (None, node):
            outputs = {node: "head"}
        for wanted in outputs:
            _require_node(classifier, name, wanted)
        self.body = create_feature_extractor(classifier, outputs)
        self._set_norm(norm)
        if frozen_nodes is not None:
            self._freeze_up_to(name, frozen_nodes)
        self.stride, self.head_channels, self.proposal_channels = self._measure()
        self.tail: nn.Module | None = None
        self.tail_channels = 0
        if tail == "native":
            raise ValueError("a torchvision classifier has no native tail for pooled RoIs; use tail=fc")
        if tail == "fc":
            self.tail = fc_tail(self.head_channels, pooled_size, tail_channels)
            self.tail_channels = tail_channels

    def forward(self, images: Tensor) -> FeatureMaps:
        """The outputs of the two nodes for images [N, 3, H, W]."""
        maps = self.body(images)
        return FeatureMaps(maps.get("proposals", maps["head"]), maps["head"])

    def rename(self, key: str) -> str | None:
        """Where a key of torchvision's state dict goes; None for what lies behind the cut."""
        own = f"body.{key}"
        return own if own in self.state_dict() or key.endswith("num_batches_tracked") else None

    def _set_norm(self, norm: str) -> None:
        if norm == "frozen_bn":
            with_frozen_norms(self.body)
        elif norm != "bn":
            for path, module in list(self.body.named_modules()):
                if isinstance(module, nn.BatchNorm2d):
                    self.body.set_submodule(path, make_norm(norm, module.num_features))

    def _freeze_up_to(self, name: str, last: str) -> None:
        """Freezes modules in the order of the graph until `last` is done."""
        paths = [path for path, _ in self.body.named_modules() if path]
        if last not in paths:
            raise ValueError(f"{name} has no module {last!r}{_nearest(last, paths)}")
        leaves = [path for path, module in self.body.named_modules() if path and not list(module.children())]
        inside = [index for index, path in enumerate(leaves) if path == last or path.startswith(f"{last}.")]
        for path in leaves[: inside[-1] + 1]:
            self.body.set_submodule(path, without_training(self.body.get_submodule(path)))

    def _measure(self) -> tuple[int, int, int]:
        """Stride and channels of the maps, from one small image."""
        training, side = self.training, 256
        self.eval()
        with torch.no_grad():
            maps = self(torch.zeros(1, 3, side, side))
        self.train(training)
        strides = [side // maps.head.shape[-1], side // maps.proposals.shape[-1]]
        if strides[0] != strides[1]:
            raise ValueError(f"expected both nodes at one stride, got {strides[0]} (head) and {strides[1]} (proposals)")
        return strides[0], maps.head.shape[1], maps.proposals.shape[1]


def _classifier(name: str) -> nn.Module:
    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"torchvision has no classifier {name!r}{_nearest(name, known)}")
    return models.get_model(name, weights=None)


def _require_node(classifier: nn.Module, name: str, node: str) -> None:
    nodes = get_graph_node_names(classifier)[1]
    # A module's name stands for its last node.
    if not any(item == node or item.startswith(f"{node}.") for item in nodes):
        raise ValueError(f"{name} has no node {node!r}{_nearest(node, nodes)}")


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"; nearest: {', '.join(close)}" if close else f"; known: {', '.join(known[:20])}"
