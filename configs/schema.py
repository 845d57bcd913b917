"""Every setting, its type and its default, as dataclasses; the YAML groups beside this file hold only values.

Defaults are the published ones (Fast R-CNN on VOC), cited where a number is not self-evident. `kind` says
which class a group's values belong to, so that a saved config reads back. `__post_init__` refuses a value that cannot
work, with a message that starts with the key. Only `*/build.py` and
`detector.tools` read these classes; modules take plain arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from detector.configs.errors import ConfigError


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


# --- datasets ---------------------------------------------------------------------------------------------------------


class BoxBase(Enum):
    """Where a VOC annotation counts pixels from: 1 as published, 0 as some tools write, or decided from the files."""

    auto = "auto"
    one = "one"
    zero = "zero"


class OnUnreadable(Enum):
    """What a picture that cannot be read does."""

    stop = "stop"  # ends the program before the first step, all such pictures named
    skip = "skip"  # another image takes its place in training; a test goes without it


@dataclass
class DatasetConfig:
    kind: str = MISSING
    train: str = MISSING  # split to train on
    test: str = MISSING  # split to evaluate on


@dataclass
class VOCDatasetConfig(DatasetConfig):
    """Pascal VOC, or any folder laid out like it."""

    kind: str = "voc"
    root: str = "VOCdevkit"  # holds VOC2007/, VOC2012/; or, for splits without a year, Annotations/ and its siblings
    train: str = "2007_trainval"  # year_split, several joined by +; or just a split
    test: str = "2007_test"
    classes: list[str] | None = None  # None: VOC's 20 if the annotations use only those, otherwise discovered
    box_base: BoxBase = BoxBase.auto
    strict: bool = False  # refuse boxes that reach over the edge a little, instead of clipping them
    bit_depth: int | None = None  # of 16-bit and float pictures: 12 says 0 to 4095; None: decided from some of them
    on_unreadable: OnUnreadable = OnUnreadable.stop


class FolderFormat(Enum):
    """What annotates the pictures of a folder."""

    auto = "auto"  # what is found
    voc = "voc"  # XML and image lists
    labelimg = "labelimg"  # VOC's XML without lists
    coco = "coco"
    yolo = "yolo"
    labelme = "labelme"
    cvat = "cvat"  # XML for images
    label_studio = "label_studio"
    csv = "csv"
    open_images = "open_images"


@dataclass
class AutoDatasetConfig(DatasetConfig):
    """Any folder of pictures and annotations: format, classes and splits are found."""

    kind: str = "auto"
    root: str = "data"
    format: FolderFormat = FolderFormat.auto
    train: str = "auto"  # splits of the folder, several joined by +; auto: as found, or divided by content
    test: str = "auto"
    classes: list[str] | None = None  # these alone, in this order; None: all that are found
    rename: dict[str, str] = field(default_factory=dict)  # classes: {catt: cat}; two that get one name are merged
    box_base: BoxBase = BoxBase.auto  # of VOC's XML
    columns: dict[str, str] = field(default_factory=dict)  # of a CSV with other names: {picture: img, class: kind}
    val_fraction: float = 0.2  # of a folder without a pair of splits, to test on
    split_file: str | None = None  # a split that an earlier run kept
    strict: bool = False  # refuse what is otherwise mended and told: boxes over the edge, classes left out
    bit_depth: int | None = None  # of 16-bit and float pictures: 12 says 0 to 4095; None: decided from some of them
    on_unreadable: OnUnreadable = OnUnreadable.stop

    def __post_init__(self) -> None:
        _require(
            0 < self.val_fraction < 1,
            f"dataset.val_fraction is {self.val_fraction}; expected above 0 and below 1",
        )


@dataclass
class COCODatasetConfig(DatasetConfig):
    """COCO-format JSON annotations."""

    kind: str = "coco"
    train: str = MISSING  # path of the annotation file
    test: str = MISSING
    train_images: str = MISSING  # folder
    test_images: str = MISSING
    strict: bool = False  # refuse boxes that reach over the edge a little, instead of clipping them
    bit_depth: int | None = None  # of 16-bit and float pictures: 12 says 0 to 4095; None: decided from some of them
    on_unreadable: OnUnreadable = OnUnreadable.stop


@dataclass
class SyntheticDatasetConfig(DatasetConfig):
    """Seeded shapes on texture; needs no files. A split is a number of images: the two never share one."""

    kind: str = "synthetic"
    train: str = "200"
    test: str = "100"
    height: int = 96
    width: int = 128
    seed: int = 0


# --- backbones --------------------------------------------------------------------------------------------------------


class Norm(Enum):
    frozen_bn = "frozen_bn"
    bn = "bn"
    gn = "gn"


class Tail(Enum):
    """What runs on each pooled RoI: the classifier's own last layers, or two new fully connected ones."""

    native = "native"  # VGG: fc6, fc7; ResNet: res5
    fc = "fc"


@dataclass
class BackboneConfig:
    kind: str = MISSING
    weights: str | None = None  # None: random; "imagenet": torchvision's registry; or a path, URL or name
    weights_sha256: str | None = None  # checked when given
    tail: Tail = Tail.native
    tail_channels: int = 1024  # width of each layer of tail=fc
    tail_ranks: list[int] | None = None  # of the tail's fully connected layers after `detector compress`; 0: whole
    frozen_stages: int = 2


@dataclass
class VGGConfig(BackboneConfig):
    kind: str = "vgg"
    batch_norm: bool = False  # vgg16_bn
    norm: Norm = Norm.frozen_bn  # of vgg16_bn
    width: float = 1.0  # multiplies every channel count; narrow networks are for tests and demonstrations
    dropout: float = 0.5


@dataclass
class ResNetConfig(BackboneConfig):
    kind: str = "resnet"
    depth: int = 50
    norm: Norm = Norm.frozen_bn
    dilated_c5: bool | None = None  # res5 at stride 16 as the head's map, not res4; None: as the head asks (R-FCN: yes)
    stride_in_1x1: bool = False  # MSRA's Caffe ResNets stride in a block's first 1x1 convolution
    width: float = 1.0

    def __post_init__(self) -> None:
        _require(
            self.depth in (18, 34, 50, 101, 152), f"backbone.depth is {self.depth}; expected 18, 34, 50, 101 or 152"
        )


@dataclass
class TorchvisionConfig(BackboneConfig):
    """Any torchvision classifier, cut at a node of its graph."""

    kind: str = "torchvision"
    name: str = "mobilenet_v2"
    node: str = "features.13"  # output read by the head; list them with `detector info backbone=NAME`
    proposals_node: str | None = None  # output read by a proposal network; None: the same
    max_stride: int | None = None  # convolutions that would go beyond it are dilated, as R-FCN's res5 (16)
    tail: Tail = Tail.fc
    norm: Norm = Norm.frozen_bn
    frozen_nodes: str | None = None  # the graph up to and including this node is not trained
    frozen_stages: int = 0  # does not apply: a graph has no stages


# --- heads ------------------------------------------------------------------------------------------------------------


class Pooling(Enum):
    roi_pool = "roi_pool"
    roi_align = "roi_align"


class PSPooling(Enum):
    mean = "mean"  # as published
    max = "max"
    align = "align"


@dataclass
class HeadConfig:
    kind: str = MISSING
    class_agnostic: bool = False  # one box regressor for all classes


@dataclass
class FastRCNNConfig(HeadConfig):
    kind: str = "fast_rcnn"
    pooling: Pooling = Pooling.roi_pool
    output_size: int = 7
    channels: int | None = None  # of a 1x1 reduction before the pooling, for backbone.tail=fc; None: the map as it is

    def __post_init__(self) -> None:
        _require(self.channels is None or self.channels >= 1, f"head.channels is {self.channels}; expected at least 1")


@dataclass
class RFCNConfig(HeadConfig):
    kind: str = "rfcn"
    k: int = 7
    channels: int = 1024  # of the 1x1 reduction
    pooling: PSPooling = PSPooling.mean
    class_agnostic: bool = True

    def __post_init__(self) -> None:
        _require(self.k >= 1, f"head.k is {self.k}; expected at least 1")


# --- proposals --------------------------------------------------------------------------------------------------------


@dataclass
class ProposalConfig:
    kind: str = MISSING
    top_k_train: int = 2000
    top_k_test: int = 2000
    min_size: float = 2.0  # drop proposals with a side under this many pixels of the original image


@dataclass
class GridProposalsConfig(ProposalConfig):
    """A dense grid of boxes: needs no file and sees no ground truth."""

    kind: str = "grid"
    scales: list[float] = field(default_factory=lambda: [0.1, 0.15, 0.22, 0.32, 0.47, 0.7])  # of sqrt(width x height)
    aspects: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])  # height / width
    overlap: float = 0.6  # of neighbours along an axis: step = (1 - overlap) x side
    top_k_train: int = 20000
    top_k_test: int = 20000


@dataclass
class FileProposalsConfig(ProposalConfig):
    """Boxes kept in files: this project's .npz, or the original .mat in image-list order."""

    kind: str = "file"
    train: str = MISSING
    test: str = MISSING
    convention: str = (
        "yxyx-1"  # of a .mat: yxyx-1 (fast-rcnn's splits), xyxy-1 (IJCV, R-FCN), xyxy-0 (fast-rcnn's demo)
    )


@dataclass
class SelectiveSearchConfig(ProposalConfig):
    """Selective Search by OpenCV, computed once and kept beside the dataset."""

    kind: str = "selective_search"
    mode: str = "fast"  # fast | quality
    cache: str = "data/proposals"
    resize_height: int | None = None  # compute on images of this height; None: as they are
    workers: int | None = None  # None: one per core

    def __post_init__(self) -> None:
        _require(self.mode in ("fast", "quality"), f"proposals.mode is {self.mode!r}; expected fast or quality")


@dataclass
class RPNConfig(ProposalConfig):
    """Learned proposals (Faster R-CNN, section 3)."""

    kind: str = "rpn"
    channels: int = 512
    scales: list[float] = field(default_factory=lambda: [8.0, 16.0, 32.0])
    aspects: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])
    pre_nms_train: int = 12000
    pre_nms_test: int = 6000
    top_k_train: int = 2000
    top_k_test: int = 300
    nms_iou: float = 0.7
    min_size: float = 16.0  # times the image's scale
    positive_iou: float = 0.7
    negative_iou: float = 0.3
    anchors_per_image: int = 256
    positive_fraction: float = 0.5
    sigma: float = 3.0


# --- training semantics -----------------------------------------------------------------------------------------------


@dataclass
class SamplingConfig:
    """Which RoIs a training step learns from (Fast R-CNN 2.3)."""

    kind: str = MISSING
    rois_per_image: int = 64
    foreground_iou: float = 0.5
    background_iou_low: float = 0.1
    background_iou_high: float = 0.5
    append_truths: bool = True
    use_difficult: bool = True  # train on `difficult` objects, as fast-rcnn did; py-faster-rcnn and R-FCN left them out


@dataclass
class RandomSamplingConfig(SamplingConfig):
    kind: str = "random"
    foreground_fraction: float = 0.25


@dataclass
class OHEMConfig(SamplingConfig):
    """Online hard example mining: the loss on the hardest `rois_per_image` of all RoIs (R-FCN, section 3)."""

    kind: str = "ohem"
    rois_per_image: int = 128
    background_iou_low: float = 0.0


class TargetStatistics(Enum):
    measured = "measured"  # per class and coordinate, over all foreground RoIs, before training (fast-rcnn)
    fixed = "fixed"  # `deltas_mean`, `deltas_std` (py-faster-rcnn, R-FCN)


@dataclass
class LossConfig:
    targets: TargetStatistics | None = None  # None: measured for given proposals, fixed where a network proposes
    deltas_mean: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])
    deltas_std: list[float] = field(default_factory=lambda: [0.1, 0.1, 0.2, 0.2])
    box_weight: float = 1.0  # lambda of equation 1
    sigma: float = 1.0  # smooth L1 turns linear at 1 / sigma^2


@dataclass
class InputConfig:
    short_sides: list[int] = field(default_factory=lambda: [600])  # training draws one per image
    test_short_side: int = 600
    max_side: int = 1000
    canvas_multiple: int | None = None  # sides are padded to multiples of it; None: of the stride. 128 with compile
    flip: bool = True  # half of the training images left to right
    flip_vertical: bool = False  # half of them upside down: for pictures without an up (microscopes, satellites)
    color_jitter: float = 0.0  # brightness, contrast and saturation are drawn from 1 - x to 1 + x
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])  # RGB in [0, 1], torchvision's
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    bgr_255: bool = False  # Caffe's preprocessing: BGR in [0, 255]; set mean and std to match

    def __post_init__(self) -> None:
        _require(
            0 <= self.color_jitter < 1, f"input.color_jitter is {self.color_jitter}; expected from 0 to less than 1"
        )


@dataclass
class PostprocessConfig:
    """py-faster-rcnn's protocol at test time."""

    score_threshold: float = 0.05
    nms_iou: float = 0.3
    max_per_image: int = 100


class COCODifficult(Enum):
    crowd = "crowd"  # ignored, as VOC ignores them
    object = "object"


@dataclass
class EvaluationConfig:
    """What `eval`, `analyze` and `compare` make of detections; no model is run again for it."""

    protocols: list[str] = field(
        default_factory=lambda: ["voc07_11point", "voc07_11point_exact", "voc07_11point_devkit", "voc_area"]
    )  # also voc_area_devkit, and coco for COCO's twelve numbers
    protocol: str = "voc_area"  # of `analyze` and `compare`
    iou_threshold: float = 0.5  # of the VOC protocols
    coco_difficult: COCODifficult = COCODifficult.crowd
    score_threshold: float = 0.5  # from which on a detection counts as said: confusion matrix, worst images
    pictures: int = 12  # worst images and most confident mistakes that `analyze` draws, of each
    tensorboard: bool = False  # `analyze` writes precision-recall curves and pictures for TensorBoard too
    resamples: int = 10000  # of the images, for the interval of `compare`

    def __post_init__(self) -> None:
        _require(len(self.protocols) > 0, "evaluation.protocols is empty; name at least one")
        _require(
            0 < self.iou_threshold <= 1,
            f"evaluation.iou_threshold is {self.iou_threshold}; expected above 0, at most 1",
        )
        _require(self.resamples >= 1, f"evaluation.resamples is {self.resamples}; expected at least 1")
        _require(self.pictures >= 0, f"evaluation.pictures is {self.pictures}; expected 0 or more")


class Way(Enum):
    """How a model may run, besides PyTorch as it is."""

    folded = "folded"  # frozen batch norms folded into the convolutions
    compiled = "compiled"  # torch.compile
    program = "program"  # torch.export
    onnx = "onnx"  # ONNX Runtime
    bf16 = "bf16"
    svd = "svd"  # fully connected layers per RoI, compressed
    int8 = "int8"  # the same layers, in int8


@dataclass
class BenchmarkConfig:
    """What `benchmark` times: a picture of noise of this size, over and over."""

    height: int = 375
    width: int = 500
    batch_size: int = 1
    num_proposals: int = 2000  # boxes given with each image; a proposal network makes its own
    num_classes: int = 20  # of a model without a checkpoint
    warmup: int = 3
    repeats: int = 20
    ways: list[Way] = field(default_factory=lambda: list(Way))  # timed beside PyTorch as it is; []: none

    def __post_init__(self) -> None:
        for key in ("height", "width", "batch_size", "num_proposals", "num_classes", "repeats"):
            _require(getattr(self, key) >= 1, f"benchmark.{key} is {getattr(self, key)}; expected at least 1")
        _require(self.warmup >= 0, f"benchmark.warmup is {self.warmup}; expected 0 or more")


class ResultFormat(Enum):
    json = "json"
    csv = "csv"
    voc = "voc"  # comp4 text files
    coco = "coco"  # COCO's result JSON


@dataclass
class PredictConfig:
    """What `predict` keeps and writes; on its command line these keys stand alone: crops=true classes=[cat,dog]."""

    results: list[ResultFormat] = field(default_factory=lambda: [ResultFormat.json])
    classes: list[str] | None = None  # keep these alone
    score_threshold: float = (
        0.0  # keep detections from this score on, of those that postprocess.score_threshold lets by
    )
    draw_threshold: float = 0.5  # draw and cut out those from this score on
    draw: bool = True  # the pictures, or the video, with boxes
    crops: bool = False  # each box as a picture of its own
    batch_size: int = 1  # pictures of one batch share a canvas, whose padding changes scores a little
    max_frames: int | None = None  # of a video or a camera

    def __post_init__(self) -> None:
        _require(self.batch_size >= 1, f"predict.batch_size is {self.batch_size}; expected at least 1")
        _require(
            self.max_frames is None or self.max_frames >= 1,
            f"predict.max_frames is {self.max_frames}; expected at least 1",
        )


class ExportFormat(Enum):
    portable = "portable"  # one safetensors file that every command takes as weights=
    program = "program"  # torch.export's .pt2
    onnx = "onnx"


@dataclass
class ExportConfig:
    """What `export` writes; on its command line these keys stand alone: format=portable output=model.safetensors."""

    format: ExportFormat = ExportFormat.portable
    output: str | None = None
    average: bool | None = None  # the moving averages of trainer.ema_decay; None: where the checkpoint has them
    nms: bool = True  # program, onnx: score threshold and NMS inside; false: boxes and scores of every RoI
    standard: bool = False  # program: with PyTorch's operators alone, none of this project's

    def __post_init__(self) -> None:
        _require(
            not (self.standard and self.nms),
            "export.standard=true: PyTorch has no NMS per class among its own operators; set export.nms=false too",
        )


@dataclass
class CompressConfig:
    """What `compress` makes; on its command line these keys stand alone: ranks=[1024,256] output=small.safetensors."""

    ranks: list[int] | None = None  # of the tail's fully connected layers; 0: whole. Or search them by one of
    max_drop: float | None = None  # mAP (0 to 1) that may be lost on the test split: the smallest ranks within it
    max_ms: float | None = None  # time of the tail for 2,000 RoIs here: the largest ranks within it
    evaluate: bool = False  # mAP before and after, also where no search asks for it
    output: str | None = None

    def __post_init__(self) -> None:
        _require(
            self.ranks is None or min(self.ranks, default=0) >= 0, f"compress.ranks is {self.ranks}; expected 0 or more"
        )


# --- optimisation -----------------------------------------------------------------------------------------------------


@dataclass
class OptimizerConfig:
    kind: str = MISSING
    lr: float = 1e-3
    weight_decay: float = 5e-4
    bias_lr_factor: float = 2.0
    bias_decay: bool = False  # of new layers: R-FCN's released models decay them, Fast R-CNN's do not
    lr_factors: dict[str, float] = field(default_factory=dict)  # by module: {backbone: 0.1, backbone.layer4: 0.5}
    clip_norm: float | None = None


@dataclass
class SGDConfig(OptimizerConfig):
    kind: str = "sgd"
    momentum: float = 0.9


@dataclass
class AdamWConfig(OptimizerConfig):
    kind: str = "adamw"
    lr: float = 1e-4
    weight_decay: float = 0.05
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    bias_lr_factor: float = 1.0


class Decay(Enum):
    step = "step"
    cosine = "cosine"


@dataclass
class ScheduleConfig:
    decay: Decay = Decay.step
    milestones: list[float] = field(default_factory=lambda: [0.75])  # fractions of max_steps: 30k of 40k
    gamma: float = 0.1
    warmup_steps: int = 0
    warmup_factor: float = 0.1


class OnNonFinite(Enum):
    """What a loss that is not finite does."""

    stop = "stop"  # ends the run with code 4 and says why
    skip = "skip"  # the step is left out
    rollback = "rollback"  # the weights go back to the last checkpoint, the images go on


@dataclass
class TrainerConfig:
    max_steps: int = 40000
    trained: list[str] | None = None  # modules that learn, as head or backbone.layer4; None: all not frozen
    max_minutes: float | None = None  # stop, evaluate and save after this long
    images_per_step: int = 2  # over all processes and micro-batches
    micro_batches: int = 1  # a process takes its images in so many parts, one after the other: less memory, same step
    workers: int = 2
    prefetch: int = 2  # batches that each worker keeps ready
    group_by_aspect: bool = False  # batches of wide or of tall images: less padding (py-faster-rcnn's ASPECT_GROUPING)
    profile_steps: int = 0  # so many steps after the first few are traced, into the run's folder
    seed: int = 3  # the original's
    device: str = "auto"
    threads: int | None = None  # CPU threads of the main process; None: torch's choice
    deterministic: bool = False
    precision: str = "fp32"  # fp32 | bf16 | fp16
    ema_decay: float | None = None  # 0.999: evaluate the weights' moving average; None: the weights themselves
    patience: int | None = None  # stop after so many evaluations without a better figure; None: never
    on_nonfinite: OnNonFinite = OnNonFinite.stop
    compile: bool = False  # backbone and tail by torch.compile; set input.canvas_multiple too
    gradient_checkpointing: bool = False  # of ResNets and VGG: less memory, a third more time
    sync_batch_norm: bool = True  # of several processes: statistics of norm=bn over the images of all
    timeout_minutes: float = 15.0  # after which a process of several that is stuck ends the run
    log_every: int = 20
    eval_every: int = 5000  # 0: only at the end
    eval_images: int = 4  # test images drawn in TensorBoard at each evaluation
    checkpoint_every: int = 1000  # `last`; every `keep_every` steps one is kept
    keep_every: int = 0  # 0: none besides last and best
    keep_newest: int | None = None  # how many of those kept stay; None: all

    def __post_init__(self) -> None:
        _require(self.images_per_step >= 1, f"trainer.images_per_step is {self.images_per_step}; expected at least 1")
        _require(self.max_steps >= 1, f"trainer.max_steps is {self.max_steps}; expected at least 1")
        _require(self.log_every >= 1, f"trainer.log_every is {self.log_every}; expected at least 1")
        _require(self.micro_batches >= 1, f"trainer.micro_batches is {self.micro_batches}; expected at least 1")
        _require(
            self.images_per_step % self.micro_batches == 0,
            f"trainer.images_per_step is {self.images_per_step}; expected a multiple of trainer.micro_batches, "
            f"{self.micro_batches}",
        )
        _require(
            self.ema_decay is None or 0 <= self.ema_decay < 1,
            f"trainer.ema_decay is {self.ema_decay}; expected at least 0 and below 1",
        )
        _require(
            self.patience is None or self.patience >= 1, f"trainer.patience is {self.patience}; expected 1 or more"
        )
        _require(self.timeout_minutes > 0, f"trainer.timeout_minutes is {self.timeout_minutes}; expected above 0")
        _require(self.prefetch >= 1, f"trainer.prefetch is {self.prefetch}; expected at least 1")
        _require(self.profile_steps >= 0, f"trainer.profile_steps is {self.profile_steps}; expected 0 or more")
        _require(self.workers >= 0, f"trainer.workers is {self.workers}; expected 0 or more")
        _require(
            self.precision in ("fp32", "bf16", "fp16"),
            f"trainer.precision is {self.precision!r}; use fp32, bf16 or fp16",
        )


@dataclass
class Config:
    """The whole of a run. `config.yaml` in a run's folder is this, resolved."""

    dataset: DatasetConfig = MISSING
    backbone: BackboneConfig = MISSING
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
    output_dir: str | None = None  # None: runs/<date>_<time>
    resume: str | None = None  # a run's folder; auto: the newest whole checkpoint of output_dir, else of runs/
    weights: str | None = None  # a checkpoint or portable model: to evaluate, predict with or start training from
    weights_skip: list[str] = field(default_factory=list)  # train: modules not taken from it, as head: they start anew
    detections: str | None = (
        None  # eval, analyze: a run's folder, a dump, comp4 files or COCO results, in place of a model
    )
    images: str | None = None  # predict: a picture, folder, glob, list (.txt), video or camera:0

    def __post_init__(self) -> None:
        """Refuses combinations across groups, before anything is built."""
        backbone, needs_tail = self.backbone, isinstance(self.head, FastRCNNConfig)
        if isinstance(self.proposals, RPNConfig):
            _require(
                self.loss.targets is not TargetStatistics.measured,
                "loss.targets=measured needs given proposals; with proposals=rpn set loss.targets=fixed or null",
            )
        if isinstance(backbone, ResNetConfig) and needs_tail and backbone.tail is Tail.native:
            _require(not backbone.dilated_c5, "backbone.dilated_c5=true leaves no res5 as a tail; set backbone.tail=fc")
        if isinstance(backbone, TorchvisionConfig) and needs_tail:
            _require(
                backbone.tail is Tail.fc,
                "backbone.tail=native: a torchvision classifier has none; set backbone.tail=fc",
            )
        if isinstance(self.head, FastRCNNConfig) and self.head.channels is not None:
            _require(
                backbone.tail is Tail.fc,
                f"head.channels={self.head.channels}: the classifier's own layers read its whole map; set "
                "backbone.tail=fc, or head.channels=null",
            )
        if isinstance(self.sampling, OHEMConfig) and not isinstance(self.proposals, GridProposalsConfig):
            _require(
                self.sampling.rois_per_image < self.proposals.top_k_train,
                f"sampling.rois_per_image is {self.sampling.rois_per_image}, but proposals.top_k_train is only "
                f"{self.proposals.top_k_train}: there would be nothing to mine; lower the first or raise the second",
            )
