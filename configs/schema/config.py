"""All groups of settings, and the checks between groups."""

from __future__ import annotations

from dataclasses import dataclass, field

from detector.configs.errors import require
from detector.configs.missing import MISSING
from detector.configs.paths import path_setting
from detector.configs.schema.backbone import BackboneConfig, ResNetConfig, Tail, TimmConfig, TorchvisionConfig
from detector.configs.schema.benchmark import BenchmarkConfig
from detector.configs.schema.compress import CompressConfig
from detector.configs.schema.dataset import DatasetConfig
from detector.configs.schema.evaluation import EvaluationConfig
from detector.configs.schema.export import ExportConfig
from detector.configs.schema.head import FastRCNNConfig, HeadConfig
from detector.configs.schema.input import InputConfig
from detector.configs.schema.loss import LossConfig, TargetStatistics
from detector.configs.schema.neck import FPNConfig, NeckConfig
from detector.configs.schema.optimizer import OptimizerConfig, ScheduleConfig
from detector.configs.schema.postprocess import PostprocessConfig
from detector.configs.schema.predict import PredictConfig
from detector.configs.schema.proposals import GridProposalsConfig, ProposalConfig, RPNConfig
from detector.configs.schema.sampling import OHEMConfig, SamplingConfig
from detector.configs.schema.trainer import TrainerConfig


@dataclass
class Config:
    """All settings of a run. `config.yaml` in a run's folder holds them."""

    dataset: DatasetConfig = MISSING
    backbone: BackboneConfig = MISSING
    neck: NeckConfig = MISSING
    head: HeadConfig = MISSING
    proposals: ProposalConfig = MISSING
    sampling: SamplingConfig = MISSING
    loss: LossConfig = field(default_factory=LossConfig)
    input: InputConfig = field(default_factory=InputConfig)
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)
    optimizer: OptimizerConfig = MISSING
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    compress: CompressConfig = field(default_factory=CompressConfig)
    output_dir: str | None = path_setting(None)  # folder of the run; None: runs/<date>_<time>
    resume: str | None = path_setting(None)  # folder of a run; auto: newest checkpoint of output_dir, else of runs/
    weights: str | None = path_setting(None)  # a checkpoint or portable model, or its name in the zoo
    weights_skip: list[str] = field(default_factory=list)  # train: modules that do not load weights, such as head
    detections: str | None = path_setting(None)  # eval, analyze: a run's folder, a dump, comp4 files or COCO results
    images: str | None = path_setting(None)  # predict: a picture, folder, glob, list (.txt), video or camera:0

    def __post_init__(self) -> None:
        """Reject combinations of groups that cannot work, before anything is built."""
        backbone, needs_tail = self.backbone, isinstance(self.head, FastRCNNConfig)
        if isinstance(self.neck, FPNConfig):
            require(
                backbone.tail is Tail.fc or not needs_tail,
                "backbone.tail=native: the classifier's last layers cannot read a pyramid's maps; set backbone.tail=fc",
            )
            if isinstance(backbone, ResNetConfig):
                require(
                    not backbone.dilated_c5,
                    "backbone.dilated_c5=true: neck=fpn reads res5 at stride 32; set backbone.dilated_c5=null",
                )
            if isinstance(backbone, TorchvisionConfig | TimmConfig):
                require(
                    backbone.node is not None or not backbone.deeper_nodes,
                    "backbone.deeper_nodes without backbone.node: neck=fpn then finds the nodes of all strides itself; "
                    "leave backbone.deeper_nodes out, or set backbone.node to the finest node",
                )
            if isinstance(backbone, TorchvisionConfig):
                require(
                    backbone.proposals_node is None and backbone.max_stride is None,
                    "neck=fpn reads backbone.node and backbone.deeper_nodes at their own strides; set "
                    "backbone.proposals_node and backbone.max_stride to null",
                )
        if isinstance(self.proposals, RPNConfig):
            require(
                self.loss.targets is not TargetStatistics.measured,
                "loss.targets=measured needs proposals before training; with proposals=rpn, set it to fixed or null",
            )
        if isinstance(backbone, ResNetConfig):
            require(
                not (backbone.dilated_c5 and needs_tail and backbone.tail is Tail.native),
                "backbone.dilated_c5=true: res5 cannot be the tail; set backbone.tail=fc",
            )
            has_c5 = (
                isinstance(self.neck, FPNConfig)
                or backbone.dilated_c5
                or (backbone.dilated_c5 is None and not needs_tail)
            )
            require(
                has_c5 or not backbone.deformable_c5,
                "backbone.deformable_c5=true: no head reads a map of res5; set backbone.dilated_c5=true "
                "backbone.tail=fc, or use head=rfcn or neck=fpn",
            )
            require(
                backbone.frozen_stages < 5 or not backbone.deformable_c5,
                "backbone.frozen_stages=5: the offsets of backbone.deformable_c5=true must be trained; set at most 4",
            )
        if isinstance(backbone, TorchvisionConfig | TimmConfig) and needs_tail:
            require(
                backbone.tail is Tail.fc,
                f"backbone.tail=native: backbone={backbone.kind} has no such tail; set backbone.tail=fc",
            )
        if isinstance(self.head, FastRCNNConfig) and self.head.channels is not None:
            require(
                backbone.tail is Tail.fc,
                f"head.channels={self.head.channels}: the classifier's last layers need its full map; set "
                "backbone.tail=fc, or head.channels=null",
            )
        require(
            self.input.mosaic == 0 or isinstance(self.proposals, RPNConfig),
            f"input.mosaic={self.input.mosaic}: other proposals than an RPN's are boxes of one image; set "
            "proposals=rpn, or input.mosaic=0",
        )
        if isinstance(self.sampling, OHEMConfig) and not isinstance(self.proposals, GridProposalsConfig):
            require(
                self.sampling.rois_per_image < self.proposals.top_k_train,
                f"sampling.rois_per_image is {self.sampling.rois_per_image}, but proposals.top_k_train is only "
                f"{self.proposals.top_k_train}: nothing would be left to mine; lower the first or raise the second",
            )
