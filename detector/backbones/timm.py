"""Any network of timm that gives feature maps (its `features_only=True`) as a backbone.

timm is optional: pip install 'fast-rfcn[timm]'. A node is the name of a module whose output timm gives, such as layer3,
stages.2 or blocks.4.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from detector.backbones.norms import freeze, make_norm, with_frozen_norms
from detector.backbones.tail import fc_tail
from detector.backbones.top_down import TopDown
from detector.fetch import cached
from detector.structures import FeatureMaps

HUB = "https://huggingface.co"
FROM_SCRATCH = "backbone.weights=null backbone.norm=gn"
CHOICES = f"give backbone.weights=FILE (timm's state dict), or train from scratch with {FROM_SCRATCH}"
SIZE = (64, 96)  # height and width of the image that checks the maps; not square, to distinguish rows from columns


class TimmBackbone(nn.Module):
    """A network of timm, cut at one or more nodes."""

    def __init__(
        self,
        *,
        name: str,
        node: str,
        deeper_nodes: Sequence[str] = (),
        joined_channels: int | None = 128,
        joined_separable: bool = False,
        norm: str,
        frozen_nodes: str | None,
        tail: str | None,
        tail_channels: int,
        pooled_size: int,
    ) -> None:
        """`node` is the output that head and proposals read.

        `deeper_nodes` are outputs with larger strides, the finest first. A top-down pathway (`TopDown`) with
        `joined_channels` channels adds them to the map of `node`; head and proposals then read this map. None: they are
        not joined here, but a pyramid reads them (`bottom_up`). `joined_separable` makes the last 3x3 of the pathway a
        depthwise and a 1x1 convolution.
        `norm` replaces batch norms only. Everything up to and including the module `frozen_nodes` is not trained.

        Raises ValueError for a name or node that timm does not have (the message has the nearest ones), for a network
        without feature maps of any size, and if timm is not installed.
        """
        super().__init__()
        nodes = [node, *deeper_nodes]
        strides = [_stride(name, item) for item in nodes]
        if any(coarse <= fine for fine, coarse in pairwise(strides)):
            raise ValueError(
                f"expected nodes of {name} with increasing strides, got strides of {', '.join(map(str, strides))} at "
                f"{', '.join(nodes)}; change backbone.deeper_nodes"
            )
        places = list(_outputs(name))
        self.body = _network(name, out_indices=tuple(places.index(item) for item in nodes))
        self.split: set[str] = set()  # paths in body of the norms that had an activation inside
        self._split_norms()
        self._set_norm(norm)
        self.frozen: list[str] = []  # paths in body
        if frozen_nodes is not None:
            self._freeze_up_to(name, frozen_nodes, places[: places.index(nodes[-1]) + 1])
        self._own_keys = frozenset(self.state_dict())
        self.bottom_up_strides = tuple(strides)
        self.bottom_up_channels = tuple(self.body.feature_info.channels())
        self._check_maps(name)
        self.top_down: TopDown | None = None
        self.head_channels = self.bottom_up_channels[0]
        if deeper_nodes and joined_channels is not None:
            self.top_down = TopDown(self.bottom_up_channels, joined_channels, separable=joined_separable)
            self.head_channels = joined_channels
        self.proposal_channels = self.head_channels
        self.strides: tuple[int, ...] = (strides[0],)
        self.proposal_strides: tuple[int, ...] = self.strides
        self.tail: nn.Module | None = None
        self.tail_channels = 0
        if tail == "native":
            raise ValueError("a network of timm has no native tail for pooled RoIs; use tail=fc")
        if tail == "fc":
            self.tail = fc_tail(self.head_channels, pooled_size, tail_channels)
            self.tail_channels = tail_channels

    def forward(self, images: Tensor) -> FeatureMaps:
        """Return the maps for proposals and head of images [N, 3, H, W]."""
        maps = self.bottom_up(images)
        if self.top_down is not None:
            maps = [self.top_down(maps)]
        return FeatureMaps(maps, maps)

    def bottom_up(self, images: Tensor) -> list[Tensor]:
        """Return the outputs of the node and the deeper nodes [N, C_i, H_i, W_i]."""
        maps: list[Tensor] = self.body(images)
        return maps

    def train(self, mode: bool = True) -> TimmBackbone:
        """Set training mode for all but the frozen modules: their dropout and stochastic depth stay off."""
        super().train(mode)
        for path in self.frozen:
            self.body.get_submodule(path).eval()
        return self

    def rename(self, key: str) -> str | None:
        """Return the name here of a key of timm's state dict; None for layers after the last node."""
        path, _, tensor = f"model.{key}".rpartition(".")
        own = f"body.{path}.0.{tensor}" if path in self.split else f"body.{path}.{tensor}"
        return own if own in self._own_keys else None

    def _split_norms(self) -> None:
        """Replace timm's layers of a batch norm and an activation by a sequence of the two."""
        from timm.layers.norm_act import BatchNormAct2d

        for path, module in list(self.body.named_modules()):
            if isinstance(module, BatchNormAct2d):
                norm = nn.BatchNorm2d(module.num_features, module.eps, module.momentum)
                norm.load_state_dict(module.state_dict(), strict=False)  # the activation may have weights too
                self.body.set_submodule(path, nn.Sequential(norm, module.drop, module.act))
                self.split.add(path)

    def _set_norm(self, norm: str) -> None:
        if norm == "frozen_bn":
            with_frozen_norms(self.body)
        elif norm != "bn":
            for path, module in list(self.body.named_modules()):
                if isinstance(module, nn.BatchNorm2d):
                    self.body.set_submodule(path, make_norm(norm, module.num_features))

    def _freeze_up_to(self, name: str, last: str, used: Sequence[str]) -> None:
        """Freeze everything up to the end of the module `last`. timm defines modules in the order of their calls.

        `used` are the outputs up to the last node: timm leaves the later ones in the network, but empty.
        """
        paths, own = [path for path, _ in self.body.named_modules()], f"model.{last}"
        if own not in paths or (last in _outputs(name) and last not in used):
            raise ValueError(f"the used part of {name} has no module {last!r}{_nearest(last, used)}")
        end = max(i for i, path in enumerate(paths) if f"{path}.".startswith(f"{own}."))
        for path in paths[: end + 1]:
            if not path or own.startswith(f"{path}."):  # around `last`, as a ViT with its position embedding
                for parameter in self.body.get_submodule(path).parameters(recurse=False):
                    parameter.requires_grad_(False)
            elif not any(path.startswith(f"{done}.") for done in self.frozen):
                self.body.set_submodule(path, freeze(self.body.get_submodule(path)))
                self.frozen.append(path)

    @torch.no_grad()
    def _check_maps(self, name: str) -> None:
        """Raise ValueError unless the maps of an image have the strides and channels that timm states."""
        wanted = [
            (1, channels, *(side // stride for side in SIZE))
            for stride, channels in zip(self.bottom_up_strides, self.bottom_up_channels, strict=True)
        ]
        try:
            found = [tuple(item.shape) for item in self.eval().bottom_up(torch.zeros(1, 3, *SIZE))]
        except Exception as error:  # from a network with a fixed input size; each asserts in its own way
            raise ValueError(
                f"timm's {name} does not take images of {SIZE[0]} x {SIZE[1]} pixels ({_first_line(error)}); choose a "
                "network that takes images of any size"
            ) from error
        if found != wanted:
            raise ValueError(f"expected maps {wanted} of timm's {name} for {SIZE[0]} x {SIZE[1]} pixels, got {found}")
        self.train()


def timm_nodes(name: str) -> Mapping[int, str]:
    """Return stride -> the last node of this stride, for the strides 2, 4, 8, 16 and 32 that the network has.

    Raises ValueError for a name that timm does not have, and if timm is not installed.
    """
    return {stride: node for node, stride in _outputs(name).items() if stride in (2, 4, 8, 16, 32)}


def pretrained_state(name: str, sha256: str | None = None) -> dict[str, Tensor]:
    """Return the state dict of timm's pretrained network, from the cache or the network (`detector.fetch`).

    Raises ValueError if timm has no weights, or the file cannot be loaded or has another checksum.
    """
    config = _pretrained_config(name)
    if config.hf_hub_id:
        file = config.hf_hub_filename or "model.safetensors"
        url, cache_name = f"{HUB}/{config.hf_hub_id}/resolve/main/{file}", f"{config.hf_hub_id}/{file}"
    elif config.url:
        url, cache_name = config.url, f"timm/{config.url.rpartition('/')[2]}"
    else:
        raise ValueError(f"timm has no weights of {name}; {CHOICES}")
    try:
        path = cached(url, cache_name.replace("/", "-"), sha256)
        network: nn.Module = _timm().create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    except Exception as error:  # timm raises many kinds for a damaged file
        raise ValueError(f"timm's weights of {name} cannot be loaded ({_first_line(error)}); {CHOICES}") from error
    return network.state_dict()


def pretrained_normalisation(name: str) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation (R, G, B in [0, 1]) of the images that timm's weights were trained on."""
    config = _pretrained_config(name)
    return list(config.mean), list(config.std)


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ValueError("backbone=timm needs timm: pip install 'fast-rfcn[timm]'") from error
    return timm


def _pretrained_config(name: str) -> Any:
    """Return timm's description of the weights. Raises ValueError for a name or tag that timm does not have."""
    timm = _timm()
    if ":" in name or not timm.is_model(name):
        raise ValueError(f"timm has no network {name!r}{_nearest(name, timm.list_models())}")
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # an unknown tag
        tags = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        raise ValueError(f"timm has no weights {name!r}; known: {', '.join(tags)}") from error
    return config if config is not None else timm.models.PretrainedCfg()


def _network(name: str, **options: Any) -> Any:
    """Return timm's network as a function from images to feature maps [N, C_i, H_i, W_i], with random weights.

    Its state dict has the keys of the whole network after `model.`, and no layers after the last map.
    """
    if _pretrained_config(name).fixed_input_size:
        options["dynamic_img_size"] = True
    try:
        return _timm().create_model(name, features_only=True, feature_cls="getter", **options)
    except (AssertionError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"timm's {name} gives no feature maps of images of any size ({_first_line(error)}); choose another network"
        ) from error


@cache
def _outputs(name: str) -> Mapping[str, int]:
    """Return node -> stride of every output that timm has, in the order of the network."""
    with torch.device("meta"):
        network = _network(name)
    return MappingProxyType({item["module"]: item["reduction"] for item in network.feature_info.info})


def _stride(name: str, node: str) -> int:
    known = _outputs(name)
    if node not in known:
        raise ValueError(f"timm's {name} has no node {node!r}; known: {', '.join(known)}")
    return known[node]


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"; nearest: {', '.join(close)}" if close else ""


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
