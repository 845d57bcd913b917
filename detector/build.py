"""Builds a detector and its optimizer from a config, with one `match` per config group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from detector.backbones import Backbone
from detector.backbones.nodes import nodes_by_stride
from detector.backbones.norms import FrozenBatchNorm2d
from detector.backbones.pyramid import Pyramid
from detector.backbones.resnet import ResNet
from detector.backbones.tail import fc_tail
from detector.backbones.timm import TimmBackbone, pretrained_state, timm_nodes
from detector.backbones.torchvision import TorchvisionBackbone
from detector.backbones.vgg import VGG16
from detector.backbones.weights import load_classifier, load_classifier_weights
from detector.box_losses import OverlapLoss, ciou_loss, giou_loss
from detector.compress import factorize
from detector.configs import schema
from detector.configs.errors import ConfigError
from detector.engine.optimizer import (
    cosine_factor,
    parameter_groups,
    start_momentum,
    step_factor,
    without_compiler,
)
from detector.heads import Head
from detector.heads.deformable_rfcn import DeformableRFCNHead
from detector.heads.fast_rcnn import FastRCNNHead, reduction
from detector.heads.light_head import LightHead
from detector.heads.rfcn import PSPooling, RFCNHead
from detector.losses import RoILoss
from detector.model import Detector
from detector.ops import roi_align, roi_pool
from detector.ops.distinct import distinct_rois
from detector.postprocess import Postprocess
from detector.preprocess import Preprocess
from detector.proposals.given import GivenProposals, ProposalModule
from detector.proposals.rpn import RPN, KeepCounts
from detector.sampling import HardExampleMining, RandomSampling, Sampler
from detector.targets import BoxCoder, Matcher
from detector.views import Views

# Weight of a loss of the overlap: smooth L1 has larger gradients, because deltas are divided by deviations of 0.1 and
# 0.2. Source: the released code of the GIoU paper.
OVERLAP_WEIGHT = 10.0


def build_detector(config: schema.Config, num_classes: int, class_weights: Tensor | None = None) -> Detector:
    """Return a detector with random weights for `num_classes` foreground classes.

    `class_weights` [num_classes + 1] are those of the classes' losses; None: equal weights. `load_backbone_weights`
    loads a classifier's weights afterwards. Raises ConfigError for combinations that cannot work.
    """
    backbone = build_backbone(config)
    rows = 1 if config.head.class_agnostic else num_classes
    detector = Detector(
        preprocess=build_preprocess(config.input, backbone.strides),
        backbone=backbone,
        proposals=build_proposals(config.proposals, backbone, config.sampling.use_difficult),
        head=build_head(config.head, backbone, num_classes),
        matcher=build_matcher(config.sampling),
        sampler=build_sampler(config.sampling),
        coder=BoxCoder(rows=rows, mean=tuple(config.loss.deltas_mean), std=tuple(config.loss.deltas_std)),
        loss=build_loss(config.loss, class_weights),
        postprocess=Postprocess(
            score_threshold=config.postprocess.score_threshold,
            nms_iou=config.postprocess.nms_iou,
            max_per_image=config.postprocess.max_per_image,
            box_voting=config.postprocess.box_voting,
        ),
        views=build_views(config.input),
    )
    return detector.to(memory_format=torch.channels_last)


def build_preprocess(config: schema.InputConfig, strides: Sequence[int]) -> Preprocess:
    """Build the preprocessing for maps of these strides."""
    return Preprocess(
        max_side=config.max_side,
        round_down=config.round_down,
        mean=tuple(config.mean),
        std=tuple(config.std),
        bgr_255=config.bgr_255,
        stride=strides[-1],
        multiple=config.canvas_multiple,
        finest_stride=strides[0],
        antialias=config.antialias,
    )


def build_views(config: schema.InputConfig) -> Views | None:
    """Build the views of an image at test time; None for the image as it is."""
    scales = tuple(config.test_scales)
    return Views(scales=scales, flip=config.test_flip) if config.test_flip or scales != (1.0,) else None


def build_matcher(config: schema.SamplingConfig) -> Matcher:
    """Build the matcher that labels RoIs."""
    return Matcher(
        foreground_iou=config.foreground_iou,
        background_iou_low=config.background_iou_low,
        background_iou_high=config.background_iou_high,
        append_truths=config.append_truths,
        use_difficult=config.use_difficult,
    )


def build_sampler(config: schema.SamplingConfig) -> Sampler:
    """Build the sampler of RoIs."""
    match config:
        case schema.RandomSamplingConfig():
            return RandomSampling(rois_per_image=config.rois_per_image, foreground_fraction=config.foreground_fraction)
        case schema.OHEMConfig():
            return HardExampleMining(rois_per_image=config.rois_per_image)
    raise ConfigError(f"sampling.kind {config.kind!r} has no builder")


def build_loss(config: schema.LossConfig, class_weights: Tensor | None) -> RoILoss:
    """Build the loss of the RoIs."""
    return RoILoss(
        box_weight=box_weight(config),
        sigma=config.sigma,
        overlap_loss=overlap_loss(config.box),
        label_smoothing=config.label_smoothing,
        focal_gamma=config.focal_gamma,
        class_weights=class_weights,
    )


def box_weight(config: schema.LossConfig) -> float:
    """Return the weight of the box loss: that of the settings, or the usual one for the kind of loss."""
    if config.box_weight is not None:
        return config.box_weight
    return 1.0 if config.box is schema.BoxLoss.smooth_l1 else OVERLAP_WEIGHT


def overlap_loss(kind: schema.BoxLoss) -> OverlapLoss | None:
    """Return the loss of decoded boxes; None for smooth L1, which is a loss of the deltas."""
    match kind:
        case schema.BoxLoss.smooth_l1:
            return None
        case schema.BoxLoss.giou:
            return giou_loss
        case schema.BoxLoss.ciou:
            return ciou_loss


def build_proposals(config: schema.ProposalConfig, backbone: Backbone, use_difficult: bool) -> ProposalModule:
    """Build the source of proposals: an RPN, or boxes that the dataset brings."""
    match config:
        case schema.GridProposalsConfig() | schema.FileProposalsConfig() | schema.SelectiveSearchConfig():
            return GivenProposals()
        case schema.RPNConfig():
            return RPN(
                in_channels=backbone.proposal_channels,
                channels=config.channels,
                separable=config.separable,
                strides=backbone.proposal_strides,
                scales=tuple(config.scales),
                aspects=tuple(config.aspects),
                as_torchvision=config.anchors is schema.Anchors.corner,
                train_keep=KeepCounts(config.pre_nms_train, config.top_k_train),
                test_keep=KeepCounts(config.pre_nms_test, config.top_k_test),
                nms_iou=config.nms_iou,
                min_size=config.min_size,
                positive_iou=config.positive_iou,
                negative_iou=config.negative_iou,
                anchors_per_image=config.anchors_per_image,
                positive_fraction=config.positive_fraction,
                overlap_loss=overlap_loss(config.box_loss),
                sigma=config.sigma,
                use_difficult=use_difficult,
            )
    raise ConfigError(f"proposals.kind {config.kind!r} has no builder")


def build_head(config: schema.HeadConfig, backbone: Backbone, num_classes: int) -> Head:
    """Build the head for the maps of a backbone."""
    match config:
        case schema.FastRCNNConfig():
            assert backbone.tail is not None
            pooled = config.pooling is schema.Pooling.roi_pool
            return FastRCNNHead(
                num_classes=num_classes,
                reduce=None if config.channels is None else reduction(backbone.head_channels, config.channels),
                tail=backbone.tail,
                tail_channels=backbone.tail_channels,
                strides=backbone.strides,
                pooling=roi_pool if pooled else partial(roi_align, sampling_ratio=2, aligned=config.aligned),
                distinct=distinct_rois if pooled else None,
                output_size=config.output_size,
                inclusive=pooled,
                class_agnostic=config.class_agnostic,
            )
        case schema.LightHeadConfig():
            ps_pooling = build_ps_pooling(config.pooling)
            return LightHead(
                num_classes=num_classes,
                in_channels=backbone.head_channels,
                mid_channels=config.mid_channels,
                channels=config.channels,
                kernel=config.kernel,
                fc_channels=config.fc_channels,
                strides=backbone.strides,
                k=config.k,
                pooling=ps_pooling.bins,
                inclusive=ps_pooling.inclusive,
                class_agnostic=config.class_agnostic,
            )
        case schema.RFCNConfig():
            return RFCNHead(
                num_classes=num_classes,
                in_channels=backbone.head_channels,
                channels=config.channels,
                strides=backbone.strides,
                k=config.k,
                pooling=build_ps_pooling(config.pooling),
                class_agnostic=config.class_agnostic,
            )
        case schema.DeformableRFCNConfig():
            return DeformableRFCNHead(
                num_classes=num_classes,
                in_channels=backbone.head_channels,
                channels=config.channels,
                strides=backbone.strides,
                k=config.k,
                offset_scale=config.offset_scale,
                sampling_ratio=config.sampling_ratio,
                class_agnostic=config.class_agnostic,
            )
    raise ConfigError(f"head.kind {config.kind!r} has no builder")


def build_ps_pooling(pooling: schema.PSPooling) -> PSPooling:
    """Build a position-sensitive pooling."""
    return PSPooling.aligned() if pooling is schema.PSPooling.align else PSPooling.published(pooling.value)


def build_backbone(config: schema.Config) -> Backbone:
    """Return the backbone with random weights: only the layers that the head and the proposals need."""
    backbone, ranks, head = _backbone_without_neck(config), config.backbone.tail_ranks, config.head
    if isinstance(config.neck, schema.FPNConfig):
        backbone = _with_pyramid(config, backbone, config.neck.channels)
    if isinstance(head, schema.FastRCNNConfig) and head.channels is not None:
        backbone.tail_channels = config.backbone.tail_channels
        backbone.tail = fc_tail(head.channels, head.output_size, backbone.tail_channels)
    if ranks is not None:
        if backbone.tail is None:
            raise ConfigError("backbone.tail_ranks needs a head with fully connected layers; set it to null")
        factorize(backbone.tail, tuple(ranks))
    return backbone


def _with_pyramid(config: schema.Config, body: Backbone, channels: int) -> Pyramid:
    """Return a pyramid over `body`. A head that needs a tail gets two fully connected layers."""
    assert isinstance(body, (ResNet, VGG16, TorchvisionBackbone, TimmBackbone))
    head, width = config.head, config.backbone.tail_channels
    tail = fc_tail(channels, head.output_size, width) if isinstance(head, schema.FastRCNNConfig) else None
    return Pyramid(body=body, channels=channels, tail=tail, tail_channels=0 if tail is None else width)


def _backbone_without_neck(config: schema.Config) -> Backbone:
    backbone, head = config.backbone, config.head
    pyramid = isinstance(config.neck, schema.FPNConfig)
    needs_tail = isinstance(head, schema.FastRCNNConfig)
    # With `head.channels` the tail reads the reduced map, so `build_backbone` adds the tail.
    reduced = isinstance(head, schema.FastRCNNConfig) and head.channels is not None
    tail = backbone.tail.value if needs_tail and not reduced and not pyramid else None
    pooled_size = head.output_size if isinstance(head, schema.FastRCNNConfig) else 0
    match backbone:
        case schema.VGGConfig():
            return VGG16(
                norm=backbone.norm.value if backbone.batch_norm else None,
                width=backbone.width,
                frozen_stages=backbone.frozen_stages,
                tail=tail,
                tail_channels=backbone.tail_channels,
                dropout=backbone.dropout,
                pooled_size=pooled_size,
            )
        case schema.ResNetConfig():
            dilated = not (needs_tail or pyramid) if backbone.dilated_c5 is None else backbone.dilated_c5
            return ResNet(
                depth=backbone.depth,
                norm=backbone.norm.value,
                width=backbone.width,
                frozen_stages=backbone.frozen_stages,
                dilated_c5=dilated,
                strided_c5=pyramid,
                deformable_c5=backbone.deformable_c5,
                stride_in_1x1=backbone.stride_in_1x1,
                tail=tail,
                tail_channels=backbone.tail_channels,
                pooled_size=pooled_size,
            )
        case schema.TorchvisionConfig():
            node, *deeper = _nodes(backbone, pyramid)
            return TorchvisionBackbone(
                name=backbone.name,
                node=node,
                proposals_node=backbone.proposals_node,
                deeper_nodes=deeper,
                joined_channels=None if pyramid else backbone.joined_channels,
                joined_separable=backbone.joined_separable,
                max_stride=backbone.max_stride,
                norm=backbone.norm.value,
                frozen_nodes=backbone.frozen_nodes,
                tail=tail,
                tail_channels=backbone.tail_channels,
                pooled_size=pooled_size,
            )
        case schema.TimmConfig():
            node, *deeper = _nodes(backbone, pyramid)
            return TimmBackbone(
                name=backbone.name,
                node=node,
                deeper_nodes=deeper,
                joined_channels=None if pyramid else backbone.joined_channels,
                joined_separable=backbone.joined_separable,
                norm=backbone.norm.value,
                frozen_nodes=backbone.frozen_nodes,
                tail=tail,
                tail_channels=backbone.tail_channels,
                pooled_size=pooled_size,
            )
    raise ConfigError(f"backbone.kind {backbone.kind!r} has no builder")


def _nodes(config: schema.TorchvisionConfig | schema.TimmConfig, pyramid: bool) -> list[str]:
    """Return the nodes of the config. By default: the node of stride 16, or the nodes of strides 4 to 32 (pyramid)."""
    if config.node is not None:
        return [config.node, *config.deeper_nodes]
    found = known_nodes(config)
    wanted = (4, 8, 16, 32) if pyramid else (16,)
    if pyramid and len(found) == 1:
        raise ConfigError(
            f"backbone.name={config.name} has maps of one stride ({next(iter(found))}), so no pyramid can be made; set "
            "neck=none"
        )
    absent = [stride for stride in wanted if stride not in found]
    if absent:
        raise ConfigError(
            f"backbone.name={config.name}: expected a map of stride {', '.join(map(str, absent))}, found none; set "
            f"backbone.node{', and backbone.deeper_nodes for the coarser maps' if pyramid else ''}"
        )
    return [*(found[stride] for stride in wanted), *config.deeper_nodes]


def known_nodes(config: schema.BackboneConfig) -> Mapping[int, str]:
    """Return stride -> last node of a backbone whose output can be chosen; for others nothing."""
    match config:
        case schema.TorchvisionConfig():
            return nodes_by_stride(config.name)
        case schema.TimmConfig():
            return timm_nodes(config.name)
    return {}


def load_backbone_weights(config: schema.BackboneConfig, backbone: Backbone) -> None:
    """Load the classifier weights that `backbone.weights` names into the backbone.

    Raises ConfigError for frozen layers without weights: they would stay random.
    """
    assert isinstance(backbone, nn.Module)
    if config.weights is None:
        _require_all_trained(config, backbone)
        return
    if isinstance(config, schema.TimmConfig) and config.weights == "imagenet":
        state = pretrained_state(config.name, config.weights_sha256)
        load_classifier(backbone, state, "timm's pretrained weights", architecture=config.name)
        return
    load_classifier_weights(backbone, config.weights, architecture=architecture(config), sha256=config.weights_sha256)


def _require_all_trained(config: schema.BackboneConfig, backbone: nn.Module) -> None:
    """Raise ConfigError if random layers of the backbone are frozen. The message names the settings that freeze them.

    A network without batch norms, such as ConvNeXt, has no frozen norm.
    """
    changes = []
    if isinstance(config, schema.TorchvisionConfig | schema.TimmConfig):
        if config.frozen_nodes is not None:
            changes.append("backbone.frozen_nodes=null")
    elif config.frozen_stages > 0:
        changes.append("backbone.frozen_stages=0")
    frozen_norms = any(isinstance(module, FrozenBatchNorm2d) for module in backbone.modules())
    if frozen_norms and getattr(config, "norm", None) is schema.Norm.frozen_bn:
        changes.append("backbone.norm=gn")
    if changes:
        raise ConfigError(
            "backbone.weights is null, but parts of the backbone are frozen and would stay random: set "
            f"backbone.weights (imagenet, a path or a URL), or {' '.join(changes)}"
        )


def architecture(config: schema.BackboneConfig) -> str:
    """Return torchvision's or timm's name of the classifier that the backbone is a part of."""
    match config:
        case schema.VGGConfig():
            return "vgg16_bn" if config.batch_norm else "vgg16"
        case schema.ResNetConfig():
            return f"resnet{config.depth}"
        case schema.TorchvisionConfig() | schema.TimmConfig():
            return config.name
    raise ConfigError(f"backbone.kind {config.kind!r} has no builder")


def build_optimizer(config: schema.Config, detector: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer with its parameter groups."""
    optimizer = config.optimizer
    # New layers, for which a classifier has no weights.
    tail = ("backbone.tail",) if config.backbone.tail is schema.Tail.fc else ()
    new = ("head", "proposals", "backbone.top_down", "backbone.fpn", *tail)
    groups = parameter_groups(
        detector,
        lr=optimizer.lr,
        weight_decay=optimizer.weight_decay,
        bias_lr_factor=optimizer.bias_lr_factor,
        bias_decay=optimizer.bias_decay,
        new=new,
        lr_factors=optimizer.lr_factors,
    )
    # On a CPU one pass over the memory is three times as fast. The values are the same but for rounding.
    fused = True if all(p.device.type == "cpu" for group in groups for p in group["params"]) else None
    match optimizer:
        case schema.SGDConfig():
            sgd = without_compiler(torch.optim.SGD)
            built = sgd(groups, lr=optimizer.lr, momentum=optimizer.momentum, fused=fused)
            start_momentum(built)
            return built
        case schema.AdamWConfig():
            adamw = without_compiler(torch.optim.AdamW)
            return adamw(groups, lr=optimizer.lr, betas=(optimizer.betas[0], optimizer.betas[1]), fused=fused)
    raise ConfigError(f"optimizer.kind {optimizer.kind!r} has no builder")


def build_schedule(config: schema.Config, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
    """Build the schedule of the learning rate."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_factor(config, config.trainer.max_steps))


def learning_rate_factor(config: schema.Config, max_steps: int) -> Callable[[int], float]:
    """Return the function from step to learning rate / base rate, for a training of `max_steps`."""
    schedule = config.schedule
    common: dict[str, Any] = {
        "max_steps": max_steps,
        "warmup_steps": schedule.warmup_steps,
        "warmup_factor": schedule.warmup_factor,
    }
    if schedule.decay is schema.Decay.cosine:
        return partial(cosine_factor, **common)
    return partial(step_factor, milestones=tuple(schedule.milestones), gamma=schedule.gamma, **common)
