"""The groups of settings and the classes that each may be; a config as plain values, and back.

OmegaConf is loaded by the functions that need it: the table of groups alone answers `detector --help`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from detector.configs import schema
from detector.configs.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

# group -> schema name -> class. `kind` of a class is the key by which a saved config finds it again.
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
    },
    "neck": {"none": schema.NoNeckConfig, "fpn": schema.FPNConfig},
    "head": {"fast_rcnn": schema.FastRCNNConfig, "rfcn": schema.RFCNConfig},
    "proposals": {
        "grid": schema.GridProposalsConfig,
        "file": schema.FileProposalsConfig,
        "selective_search": schema.SelectiveSearchConfig,
        "rpn": schema.RPNConfig,
    },
    "sampling": {"random": schema.RandomSamplingConfig, "ohem": schema.OHEMConfig},
    "optimizer": {"sgd": schema.SGDConfig, "adamw": schema.AdamWConfig},
}

ADDED = {"neck": "none"}  # groups that configs saved before them lack, and the kind that those mean


def to_plain(config: schema.Config) -> dict[str, Any]:
    """Dicts, lists, strings and numbers only: what YAML and `torch.load(weights_only=True)` carry."""
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(OmegaConf.structured(config), resolve=True, enum_to_str=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def structured(plain: dict[str, Any]) -> DictConfig:
    """The typed config of plain values. Raises ConfigError for a kind that this version does not know."""
    from omegaconf import DictConfig, OmegaConf

    config = OmegaConf.structured(schema.Config)
    for group, kinds in GROUPS.items():
        values = plain.get(group, {"kind": ADDED[group]} if group in ADDED else {})
        kind = values.get("kind")
        if kind not in kinds:
            raise ConfigError(f"{group}.kind is {kind!r}; expected one of {', '.join(kinds)}")
        config[group] = OmegaConf.merge(OmegaConf.structured(kinds[kind]), values)
    rest = {key: value for key, value in plain.items() if key not in GROUPS}
    merged = OmegaConf.merge(config, rest)
    assert isinstance(merged, DictConfig)
    return merged


def to_config(config: DictConfig) -> schema.Config:
    """The dataclass tree of a typed config, each value checked."""
    from omegaconf import OmegaConf

    value = OmegaConf.to_object(config)
    assert isinstance(value, schema.Config)
    return value
