"""The groups of settings and the schema classes of each group. Converts a config to plain values and back.

Only the functions that need OmegaConf import it: `detector --help` needs the table of groups only, and stays fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from detector.configs import schema
from detector.configs.errors import ConfigError
from detector.configs.ranges import check_ranges

if TYPE_CHECKING:
    from omegaconf import DictConfig

# group -> kind -> class. A saved config stores `kind`, so that its class can be found again.
GROUPS: dict[str, dict[str, type]] = {
    "dataset": {
        "auto": schema.AutoDatasetConfig,
        "voc": schema.VOCDatasetConfig,
        "coco": schema.COCODatasetConfig,
        "synthetic": schema.SyntheticDatasetConfig,
    },
    "backbone": {
        "vgg": schema.VGGConfig,
        "resnet": schema.ResNetConfig,
        "torchvision": schema.TorchvisionConfig,
        "timm": schema.TimmConfig,
    },
    "neck": {"none": schema.NoNeckConfig, "fpn": schema.FPNConfig},
    "head": {
        "fast_rcnn": schema.FastRCNNConfig,
        "light_head": schema.LightHeadConfig,
        "rfcn": schema.RFCNConfig,
        "deformable_rfcn": schema.DeformableRFCNConfig,
    },
    "proposals": {
        "grid": schema.GridProposalsConfig,
        "file": schema.FileProposalsConfig,
        "selective_search": schema.SelectiveSearchConfig,
        "rpn": schema.RPNConfig,
    },
    "sampling": {"random": schema.RandomSamplingConfig, "ohem": schema.OHEMConfig},
    "optimizer": {"sgd": schema.SGDConfig, "adamw": schema.AdamWConfig},
}

NEWER_GROUPS = {"neck": "none"}  # groups that older saved configs do not have, and the kind that applies to those


def to_plain(config: schema.Config) -> dict[str, Any]:
    """Return a config as dicts, lists, strings and numbers, for YAML and `torch.load(weights_only=True)`."""
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(OmegaConf.structured(config), resolve=True, enum_to_str=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def structured(plain: dict[str, Any]) -> DictConfig:
    """Return the typed config of plain values. Raises ConfigError for a kind that this version does not know."""
    from omegaconf import DictConfig, OmegaConf

    config = OmegaConf.structured(schema.Config)
    for group, kinds in GROUPS.items():
        values = plain.get(group, {"kind": NEWER_GROUPS[group]} if group in NEWER_GROUPS else {})
        kind = values.get("kind")
        if kind not in kinds:
            raise ConfigError(f"{group}.kind is {kind!r}; expected one of {', '.join(kinds)}")
        config[group] = OmegaConf.merge(OmegaConf.structured(kinds[kind]), values)
    rest = {key: value for key, value in plain.items() if key not in GROUPS}
    merged = OmegaConf.merge(config, rest)
    assert isinstance(merged, DictConfig)
    return merged


def to_config(config: DictConfig) -> schema.Config:
    """Return the dataclasses of a typed config, with each value checked."""
    from omegaconf import OmegaConf

    check_ranges(config)
    value = OmegaConf.to_object(config)
    assert isinstance(value, schema.Config)
    return value
