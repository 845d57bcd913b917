"""All settings with their types and defaults, as dataclasses. The YAML groups beside this folder hold only values.

There is one module for each group, and `config.py` joins them. Defaults are the published ones (Fast R-CNN on VOC),
with a source if a number is not obvious. `kind` names the class of a group's values, so that a saved config can be read
again. `configs/ranges.py` rejects a number that cannot work, `__post_init__` values that cannot work together; the
message starts with the key. Only `*/build.py`, `detector/pipeline` and `detector/tools` read these classes; modules
take plain arguments.
"""

from detector.configs.schema.backbone import (
    BackboneConfig,
    Norm,
    ResNetConfig,
    Tail,
    TimmConfig,
    TorchvisionConfig,
    VGGConfig,
)
from detector.configs.schema.benchmark import Backend, BenchmarkConfig
from detector.configs.schema.compress import CompressConfig
from detector.configs.schema.config import Config
from detector.configs.schema.dataset import (
    AutoDatasetConfig,
    BoxBase,
    COCODatasetConfig,
    DatasetConfig,
    FilesDatasetConfig,
    FolderFormat,
    OnUnreadable,
    PictureCheck,
    SyntheticDatasetConfig,
    VOCDatasetConfig,
)
from detector.configs.schema.evaluation import COCODifficult, EvaluationConfig
from detector.configs.schema.export import ExportConfig, ExportFormat
from detector.configs.schema.head import (
    DeformableRFCNConfig,
    FastRCNNConfig,
    HeadConfig,
    LightHeadConfig,
    Pooling,
    PSPooling,
    RFCNConfig,
)
from detector.configs.schema.input import InputConfig
from detector.configs.schema.loss import BoxLoss, LossConfig, TargetStatistics
from detector.configs.schema.neck import FPNConfig, NeckConfig, NoNeckConfig
from detector.configs.schema.optimizer import AdamWConfig, Decay, OptimizerConfig, ScheduleConfig, SGDConfig
from detector.configs.schema.postprocess import PostprocessConfig
from detector.configs.schema.predict import PredictConfig, ResultFormat
from detector.configs.schema.proposals import (
    Anchors,
    FileProposalsConfig,
    GridProposalsConfig,
    ProposalConfig,
    RPNConfig,
    SelectiveSearchConfig,
)
from detector.configs.schema.sampling import OHEMConfig, RandomSamplingConfig, SamplingConfig
from detector.configs.schema.trainer import OnNonFinite, TrainerConfig

__all__ = [
    "AdamWConfig",
    "Anchors",
    "AutoDatasetConfig",
    "BackboneConfig",
    "Backend",
    "BenchmarkConfig",
    "BoxBase",
    "BoxLoss",
    "COCODatasetConfig",
    "COCODifficult",
    "CompressConfig",
    "Config",
    "DatasetConfig",
    "Decay",
    "DeformableRFCNConfig",
    "EvaluationConfig",
    "ExportConfig",
    "ExportFormat",
    "FPNConfig",
    "FastRCNNConfig",
    "FileProposalsConfig",
    "FilesDatasetConfig",
    "FolderFormat",
    "GridProposalsConfig",
    "HeadConfig",
    "InputConfig",
    "LightHeadConfig",
    "LossConfig",
    "NeckConfig",
    "NoNeckConfig",
    "Norm",
    "OHEMConfig",
    "OnNonFinite",
    "OnUnreadable",
    "OptimizerConfig",
    "PSPooling",
    "PictureCheck",
    "Pooling",
    "PostprocessConfig",
    "PredictConfig",
    "ProposalConfig",
    "RFCNConfig",
    "RPNConfig",
    "RandomSamplingConfig",
    "ResNetConfig",
    "ResultFormat",
    "SGDConfig",
    "SamplingConfig",
    "ScheduleConfig",
    "SelectiveSearchConfig",
    "SyntheticDatasetConfig",
    "Tail",
    "TargetStatistics",
    "TimmConfig",
    "TorchvisionConfig",
    "TrainerConfig",
    "VGGConfig",
    "VOCDatasetConfig",
]
