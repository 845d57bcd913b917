"""ResNet-18 to 152: res4 with res5 as the tail (C4), or a dilated res5 at stride 16 as the map (C5, R-FCN 2.1).

Module names are torchvision's, so its state dicts load unchanged. The 3x3 convolutions of a res5 that is a map can be
deformable.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional as F

from detector.backbones.checkpointing import forward_in_segments
from detector.backbones.deformable import deform
from detector.backbones.norms import conv_norm, freeze, make_norm
from detector.backbones.tail import fc_tail
from detector.structures import FeatureMaps

# depth -> (number of blocks in each stage, whether blocks are bottlenecks)
DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1 for a bottleneck, added to the input (ResNet, figure 5)."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        out_channels: int,
        *,
        bottleneck: bool,
        stride: int,
        dilation: int,
        norm: str,
        stride_in_1x1: bool,
    ) -> None:
        super().__init__()
        self.bottleneck = bottleneck
        if bottleneck:
            first, second = (stride, 1) if stride_in_1x1 else (1, stride)
            self.conv1 = nn.Conv2d(in_channels, channels, 1, stride=first, bias=False)
            self.bn1 = make_norm(norm, channels)
            self.conv2 = _conv3x3(channels, channels, second, dilation)
            self.bn2 = make_norm(norm, channels)
            self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
            self.bn3 = make_norm(norm, out_channels)
        else:
            self.conv1 = _conv3x3(in_channels, channels, stride, dilation)
            self.bn1 = make_norm(norm, channels)
            self.conv2 = _conv3x3(channels, out_channels, 1, dilation)
            self.bn2 = make_norm(norm, out_channels)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), make_norm(norm, out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(residual branch + shortcut) of x [N, C, H, W]."""
        out = F.relu(conv_norm(x, self.conv1, self.bn1), inplace=True)
        out = conv_norm(out, self.conv2, self.bn2)
        if self.bottleneck:
            out = conv_norm(F.relu(out, inplace=True), self.conv3, self.bn3)
        return F.relu(out + (x if self.downsample is None else conv_norm(x, *self.downsample)), inplace=True)


class ResNet(nn.Module):
    """ResNet, cut after stage 4 or 5 (He et al. 2015)."""

    strides: tuple[int, ...] = (16,)
    proposal_strides: tuple[int, ...] = (16,)
    bottom_up_strides: tuple[int, ...] = (4, 8, 16, 32)
    checkpointing = False  # gradient checkpointing of each block

    def __init__(
        self,
        *,
        depth: int,
        norm: str,
        width: float,
        frozen_stages: int,
        dilated_c5: bool,
        strided_c5: bool = False,
        deformable_c5: bool = False,
        stride_in_1x1: bool,
        tail: str | None,
        tail_channels: int,
        pooled_size: int,
    ) -> None:
        """`tail`: native (res5, then an average), fc, or None. Without `tail`, res5 exists only if dilated or strided.

        The first `frozen_stages` of conv1, res2, ... res5 are not trained (2: conv1 and res2, as in R-FCN).
        `strided_c5` makes res5 the last map of `bottom_up`, for a pyramid. With `deformable_c5` the 3x3 convolutions of
        this map, or of the dilated one, are deformable (Deformable Convolutional Networks, section 3).
        `stride_in_1x1` puts a block's stride on its first convolution, as in MSRA's Caffe models.
        """
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"expected a ResNet depth from {', '.join(map(str, DEPTHS))}, got {depth}")
        if not 0 <= frozen_stages <= 5:
            raise ValueError(f"expected frozen_stages from 0 to 5 (conv1, res2 to res5), got {frozen_stages}")
        blocks, bottleneck = DEPTHS[depth]
        base = max(8, round(64 * width))
        expansion = 4 if bottleneck else 1
        self.conv1 = nn.Conv2d(3, base, 7, stride=2, padding=3, bias=False)
        self.bn1 = make_norm(norm, base)

        def stage(index: int, stride: int, dilation: int) -> nn.Sequential:
            channels = base * 2**index
            in_channels = base if index == 0 else channels // 2 * expansion
            layers = [
                Block(
                    in_channels if number == 0 else channels * expansion,
                    channels,
                    channels * expansion,
                    bottleneck=bottleneck,
                    stride=stride if number == 0 else 1,
                    dilation=dilation,
                    norm=norm,
                    stride_in_1x1=stride_in_1x1,
                )
                for number in range(blocks[index])
            ]
            return nn.Sequential(*layers)

        self.layer1, self.layer2, self.layer3 = stage(0, 1, 1), stage(1, 2, 1), stage(2, 2, 1)
        self.proposal_channels = self.head_channels = base * 4 * expansion
        self.layer4: nn.Sequential | None = None
        if dilated_c5:
            self.layer4 = stage(3, 1, 2)
            self.head_channels = base * 8 * expansion
        elif strided_c5:
            self.layer4 = stage(3, 2, 1)
        self.bottom_up_channels = tuple(base * 2**index * expansion for index in range(4))
        self.native_tail = tail == "native"
        self.tail: nn.Module | None = None
        self.tail_channels = 0
        if tail == "native":
            if dilated_c5:
                raise ValueError(
                    "res5 cannot be both the dilated feature map and the tail; use tail=fc or dilated_c5=false"
                )
            self.tail = nn.Sequential(stage(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.tail_channels = base * 8 * expansion
        elif tail == "fc":
            self.tail = fc_tail(self.head_channels, pooled_size, tail_channels)
            self.tail_channels = tail_channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if deformable_c5:
            if self.layer4 is None:
                raise ValueError("deformable_c5 needs a res5 that is a map; use dilated_c5 or strided_c5")
            deform(self.layer4)
        stages = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), () if self.layer4 is None else ("layer4",))
        for names in stages[:frozen_stages]:
            for name in names:
                setattr(self, name, freeze(getattr(self, name)))

    def forward(self, images: Tensor) -> FeatureMaps:
        """Return res4 [N, 1024, H/16, W/16] for proposals. The head reads the same, or dilated res5 [N, 2048, ...]."""
        for number, x in enumerate(self._stages(images)):
            if number == 2:
                c4 = x
        return FeatureMaps([c4], [x])

    def bottom_up(self, images: Tensor) -> list[Tensor]:
        """Return res2 to res5, with strides 4 to 32."""
        return list(self._stages(images))

    def _stages(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the last map of each stage, so that a caller keeps only the maps that it needs."""
        x = F.max_pool2d(F.relu(conv_norm(images, self.conv1, self.bn1), inplace=True), 3, stride=2, padding=1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            if stage is not None:
                x = forward_in_segments(stage, x, checkpointing=self.checkpointing)
                yield x

    def rename(self, key: str) -> str | None:
        """Return the name here of a key of torchvision's state dict; None if this network has no such tensor."""
        if key.startswith("fc."):
            return None
        if key.startswith("layer4.") and self.layer4 is None:
            return f"tail.0.{key.removeprefix('layer4.')}" if self.native_tail else None
        return key


def _conv3x3(in_channels: int, out_channels: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)
