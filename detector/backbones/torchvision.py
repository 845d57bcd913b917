"""Any torchvision classifier as a backbone, up to a node of its graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.fx import Graph

from detector.backbones.activations import without_copies
from detector.backbones.dilation import limit_stride
from detector.backbones.dry_run import dry_run
from detector.backbones.nodes import nearest, require_any_size, require_classifier
from detector.backbones.norms import (
    FoldedNorms,
    FrozenBatchNorm2d,
    conv_norm,
    freeze,
    make_norm,
    with_frozen_norms,
)
from detector.backbones.tail import fc_tail
from detector.backbones.top_down import TopDown
from detector.backbones.torchvision_library import (
    Conv2dNormActivation,
    create_feature_extractor,
    get_graph_node_names,
    models,
)
from detector.structures import FeatureMaps

KINDS = ("head", "proposals")
SIDES = ((224, 288), (480, 544))  # images to measure strides with; not square, to distinguish rows from channels


class TorchvisionBackbone(nn.Module):
    """A classifier of torchvision, cut at named nodes."""

    def __init__(
        self,
        *,
        name: str,
        node: str,
        proposals_node: str | None,
        deeper_nodes: Sequence[str] = (),
        joined_channels: int | None = 128,
        joined_separable: bool = False,
        max_stride: int | None,
        norm: str,
        frozen_nodes: str | None,
        tail: str | None,
        tail_channels: int,
        pooled_size: int,
    ) -> None:
        """`node` is the output that the head reads, `proposals_node` the output for proposals (None: the same).

        `deeper_nodes` are outputs with larger strides, the finest first. A top-down pathway (`TopDown`) with
        `joined_channels` channels adds them to the map of `node`; head and proposals then read this map. None: they are
        not joined here, but a pyramid reads them (`bottom_up`). `joined_separable` makes the last 3x3 of the pathway a
        depthwise and a 1x1 convolution.
        `max_stride` limits the stride of the maps: dilation replaces further strides of convolutions.
        Everything up to and including `frozen_nodes` (a module name, for example features.3) is not trained.
        Raises ValueError with the nearest known names for a name or node that torchvision does not know, and for a
        network with a fixed input size.
        """
        super().__init__()
        classifier = _classifier(name)
        repeated = {item for item in deeper_nodes if [node, *deeper_nodes].count(item) > 1}
        if repeated:
            raise ValueError(
                f"backbone.node and backbone.deeper_nodes have {', '.join(sorted(repeated))} twice; give every map "
                "another node"
            )
        outputs = {node: "head"}
        if proposals_node is not None and proposals_node != node:
            outputs[proposals_node] = "proposals"
        self.deeper = [f"deeper_{index}" for index in range(len(deeper_nodes))]
        outputs |= dict(zip(deeper_nodes, self.deeper, strict=True))
        for wanted in outputs:
            _require_node(classifier, name, wanted)
        if max_stride is not None:
            _limit_stride(name, classifier, max_stride)
        self.body = create_feature_extractor(classifier, outputs, suppress_diff_warning=True)
        self._set_norm(norm)
        self.frozen: list[str] = []  # paths in body
        if frozen_nodes is not None:
            self._freeze_up_to(name, frozen_nodes)
        without_copies(self.body)
        self._fold_frozen_norms()
        self.channels_last = self._with_channels_last()
        self._own_keys = frozenset(self.state_dict())
        self.top_down: TopDown | None = None
        if deeper_nodes and joined_channels is not None:
            self.top_down = TopDown(self._channels(), joined_channels, separable=joined_separable)
        measured = self._measure(name)
        self.bottom_up_strides, self.bottom_up_channels = zip(*measured["head"], strict=True)
        (stride, self.head_channels), (_, self.proposal_channels) = (measured[kind][0] for kind in KINDS)
        self.strides: tuple[int, ...] = (stride,)
        self.proposal_strides: tuple[int, ...] = (stride,)
        if max_stride is not None and stride > max_stride:
            raise ValueError(
                f"expected a stride of at most {max_stride} at {node} of {name}, got {stride}: its poolings keep their "
                "strides; choose an earlier node, or a larger max_stride"
            )
        self.tail: nn.Module | None = None
        self.tail_channels = 0
        if tail == "native":
            raise ValueError("a torchvision classifier has no native tail for pooled RoIs; use tail=fc")
        if tail == "fc":
            self.tail = fc_tail(self.head_channels, pooled_size, tail_channels)
            self.tail_channels = tail_channels

    def forward(self, images: Tensor) -> FeatureMaps:
        """Return the maps for proposals and head of images [N, 3, H, W]."""
        maps = self._channels_first(self.body(images))
        found = [maps["head"], *(maps[name] for name in self.deeper)]
        if self.top_down is not None:
            found = [self.top_down(found)]
        return FeatureMaps([maps["proposals"]] if "proposals" in maps else found, found)

    def bottom_up(self, images: Tensor) -> list[Tensor]:
        """Return the outputs of the node and the deeper nodes; only valid if they are not joined here."""
        return [*self(images).head]

    def train(self, mode: bool = True) -> TorchvisionBackbone:
        """Set training mode for all but the frozen modules: their dropout and stochastic depth stay off."""
        super().train(mode)
        for path in self.frozen:
            self.body.get_submodule(path).eval()
        return self

    def rename(self, key: str) -> str | None:
        """Return the name here of a key of torchvision's state dict; None for layers after the last node."""
        own = f"body.{key}"
        return own if own in self._own_keys else None

    def _set_norm(self, norm: str) -> None:
        if norm == "frozen_bn":
            with_frozen_norms(self.body)
        elif norm != "bn":
            for path, module in list(self.body.named_modules()):
                if isinstance(module, nn.BatchNorm2d):
                    self.body.set_submodule(path, make_norm(norm, module.num_features))

    def _freeze_up_to(self, name: str, last: str) -> None:
        """Freeze everything that the graph computes up to the end of the module `last`."""
        used = [node for node in self.body.graph.nodes if node.op in ("call_module", "get_attr")]
        inside = [i for i, node in enumerate(used) if f"{node.target}.".startswith(f"{last}.")]
        if not inside:
            paths = [path for path, _ in self.body.named_modules() if path]
            raise ValueError(f"the used part of {name} has no module {last!r}{nearest(last, paths)}")
        for node in used[: inside[-1] + 1]:
            path = str(node.target)
            if node.op == "get_attr":  # a parameter directly in a block, such as ConvNeXt's layer_scale
                module, _, parameter = path.rpartition(".")
                getattr(self.body.get_submodule(module), parameter).requires_grad_(False)
            else:
                self.body.set_submodule(path, freeze(self.body.get_submodule(path)))
                self.frozen.append(path)

    def _fold_frozen_norms(self) -> None:
        """Fold every frozen batch norm into the convolution before it at run time. Names of weights do not change.

        A network traced by torchvision has two graphs, for training and for evaluation. In them a short sequence of
        convolution, norm and activation is one node.
        """
        for path, module in list(self.body.named_modules()):
            if isinstance(module, Conv2dNormActivation):
                self.body.set_submodule(path, FoldedNorms(*module))
        graphs = cast("tuple[Graph, Graph]", (self.body.train_graph, self.body.eval_graph))
        for graph in graphs:
            for node in list(graph.nodes):
                conv = _followed_convolution(self.body, node)
                if conv is None or not isinstance(self.body.get_submodule(str(node.target)), FrozenBatchNorm2d):
                    continue
                with graph.inserting_before(node):
                    parts = [graph.create_node("get_attr", item.target) for item in (conv, node)]
                    folded = graph.call_function(conv_norm, (conv.args[0], *parts))
                node.replace_all_uses_with(folded)
                graph.erase_node(node)
                graph.erase_node(conv)
        self.body.recompile()

    def _channels_first(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the body's outputs as [N, C, H, W]."""
        return {key: item.permute(0, 3, 1, 2) if key in self.channels_last else item for key, item in maps.items()}

    def _with_channels_last(self) -> frozenset[str]:
        """Return the names of body outputs [N, H, W, C], as in Swin: their second axis grows with the image."""
        small, large = self._shapes()
        return frozenset(key for key, shape in small.items() if len(shape) == 4 and shape[1] != large[key][1])

    def _shapes(self) -> list[dict[str, torch.Size]]:
        """Return the shapes of the body's outputs for two images."""
        return [{key: item.shape for key, item in dry_run(self.body, *size).items()} for size in SIDES]

    def _channels(self) -> list[int]:
        """Return the channels of the maps that are joined, finest first."""
        maps = self._channels_first(dry_run(self.body, *SIDES[1]))
        joined = [maps["head"], *(maps[name] for name in self.deeper)]
        sizes = [item.shape[2:] for item in joined]
        if any(fine[0] <= coarse[0] or fine[1] <= coarse[1] for fine, coarse in pairwise(sizes)):
            cells = ", ".join(f"{height}x{width}" for height, width in sizes)
            raise ValueError(
                f"expected maps from fine to coarse, got {cells} cells for an image of {SIDES[1]} pixels; order "
                "deeper_nodes by increasing stride"
            )
        return [item.shape[1] for item in joined]

    def _measure(self, name: str) -> dict[str, list[tuple[int, int]]]:
        """Return stride and channels of each map of each kind, from two images.

        The stride is 256 / (cells that 256 more pixels add), since networks that do not pad (SqueezeNet) have fewer
        than side / stride cells.
        """
        small, large = (dry_run(self, *size) for size in SIDES)
        measured: dict[str, list[tuple[int, int]]] = {kind: [] for kind in KINDS}
        for kind, found in measured.items():
            for small_map, large_map in zip(getattr(small, kind), getattr(large, kind), strict=True):
                growth = [b - a for a, b in zip(small_map.shape[2:], large_map.shape[2:], strict=True)]
                if small_map.ndim != 4 or len(set(growth)) != 1 or growth[0] < 1:
                    raise ValueError(
                        f"expected the {kind} node of {name} to give maps [N, C, H, W] that grow with the image, got "
                        f"{tuple(small_map.shape)} and {tuple(large_map.shape)} for images of {SIDES[0]} and "
                        f"{SIDES[1]} pixels; choose another node"
                    )
                found.append((256 // growth[0], small_map.shape[1]))
        (head_stride, _), (proposal_stride, _) = (found[0] for found in measured.values())
        if head_stride != proposal_stride:
            raise ValueError(
                f"expected both nodes of {name} at one stride, got {head_stride} (head) and "
                f"{proposal_stride} (proposals); choose nodes of equal stride"
            )
        return measured


def _followed_convolution(body: torch.fx.GraphModule, node: torch.fx.Node) -> torch.fx.Node | None:
    """Return the convolution whose output only the module at `node` reads, or None."""
    source = node.args[0] if node.op == "call_module" and node.args else None
    if not isinstance(source, torch.fx.Node) or source.op != "call_module" or len(source.users) != 1:
        return None
    return source if isinstance(body.get_submodule(str(source.target)), nn.Conv2d) else None


def _classifier(name: str) -> nn.Module:
    require_classifier(name)
    classifier: nn.Module = models.get_model(name, weights=None)
    require_any_size(name, classifier)
    return classifier


def _limit_stride(name: str, classifier: nn.Module, max_stride: int) -> None:
    try:
        limit_stride(classifier, max_stride)
    except ValueError as error:
        raise ValueError(f"max_stride={max_stride} of {name}: {error}") from error


def _require_node(classifier: nn.Module, name: str, node: str) -> None:
    known: dict[str, None] = {}  # in the order of the graph; a module's name means its last node
    for item in get_graph_node_names(classifier, suppress_diff_warning=True)[1]:
        parts = item.split(".")
        known |= dict.fromkeys(".".join(parts[:length]) for length in range(1, len(parts) + 1))
    if node not in known:
        raise ValueError(f"{name} has no node {node!r}{nearest(node, list(known))}")
