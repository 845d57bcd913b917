"""The neck: the layers between the backbone and the parts that read its maps."""

from __future__ import annotations

from dataclasses import dataclass

from detector.configs.missing import MISSING


@dataclass
class NeckConfig:
    """Settings of every neck."""

    kind: str = MISSING


@dataclass
class NoNeckConfig(NeckConfig):
    """No neck: the other parts read the backbone's map."""

    kind: str = "none"


@dataclass
class FPNConfig(NeckConfig):
    """A feature pyramid over the backbone's maps of strides 4, 8, 16 and 32."""

    kind: str = "fpn"
    channels: int = 256  # channels of every level
