"""VGG16 as in Fast R-CNN: conv1_1 to conv5_3 without the last pooling, fc6 and fc7 as the tail.

Module names are torchvision's, so its state dicts load unchanged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice, pairwise

from torch import Tensor, nn

from detector.backbones.checkpointing import forward_in_segments
from detector.backbones.norms import freeze, make_norm
from detector.backbones.tail import fc_tail, init_linear
from detector.structures import FeatureMaps

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(nn.Module):
    """VGG16 up to conv5_3 (Simonyan and Zisserman 2014)."""

    strides: tuple[int, ...] = (16,)
    proposal_strides: tuple[int, ...] = (16,)
    bottom_up_strides: tuple[int, ...] = (4, 8, 16)
    checkpointing = False  # gradient checkpointing of each stage between poolings

    def __init__(
        self,
        *,
        norm: str | None,
        width: float,
        frozen_stages: int,
        tail: str | None,
        tail_channels: int,
        dropout: float,
        pooled_size: int,
    ) -> None:
        """`norm` None means vgg16, otherwise vgg16_bn with this norm. `tail`: native, fc or None.

        The first `frozen_stages` of the five groups of convolutions are not trained (2 in the paper: conv1, conv2).
        """
        super().__init__()
        if not 0 <= frozen_stages <= len(STAGES):
            raise ValueError(f"expected frozen_stages from 0 to {len(STAGES)} (conv1 to conv5), got {frozen_stages}")
        layers: list[nn.Module] = []
        channels, last_frozen, stage_channels = 3, 0, []
        for index, stage in enumerate(STAGES):
            if index:
                layers.append(nn.MaxPool2d(2))
            for full_width in stage:
                out_channels = max(8, round(full_width * width))
                layers.append(nn.Conv2d(channels, out_channels, 3, padding=1))
                if norm is not None:
                    layers.append(make_norm(norm, out_channels))
                layers.append(nn.ReLU(inplace=True))
                channels = out_channels
            stage_channels.append(channels)
            if index < frozen_stages:
                last_frozen = len(layers)
        self.features = nn.Sequential(*layers)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        for index in range(last_frozen):
            self.features[index] = freeze(self.features[index])
        self.proposal_channels = self.head_channels = channels
        self.bottom_up_channels = tuple(stage_channels[2:])
        self.native_tail = tail == "native"
        self.tail: nn.Module | None = None
        self.tail_channels = 0
        if tail == "native":
            self.tail_channels = max(8, round(4096 * width))
            self.tail = nn.Sequential(
                nn.Flatten(),
                nn.Linear(channels * pooled_size**2, self.tail_channels),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Linear(self.tail_channels, self.tail_channels),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
            )
            init_linear(self.tail)
        elif tail == "fc":
            self.tail_channels = tail_channels
            self.tail = fc_tail(channels, pooled_size, tail_channels)

    def forward(self, images: Tensor) -> FeatureMaps:
        """Return conv5_3 [N, 512, H/16, W/16] for both the proposals and the head."""
        (features,) = deque(self._stages(images), maxlen=1)
        return FeatureMaps([features], [features])

    def bottom_up(self, images: Tensor) -> list[Tensor]:
        """Return conv3_3, conv4_3 and conv5_3, with strides 4, 8 and 16."""
        return list(islice(self._stages(images), 2, None))

    def _stages(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the last map of each stage, so that a caller keeps only the maps that it needs."""
        cuts = [0, *(i for i, layer in enumerate(self.features) if isinstance(layer, nn.MaxPool2d)), len(self.features)]
        x = images
        for start, end in pairwise(cuts):
            stage = nn.Sequential(self.features[start:end])
            x = forward_in_segments(stage, x, checkpointing=self.checkpointing)
            yield x

    def rename(self, key: str) -> str | None:
        """Return the name here of a key of torchvision's state dict; None if this network has no such tensor."""
        if key.startswith("features."):
            return key
        layer, _, kind = key.rpartition(".")
        name = {"classifier.0": "tail.1", "classifier.3": "tail.4"}.get(layer)
        return f"{name}.{kind}" if name and self.native_tail else None
