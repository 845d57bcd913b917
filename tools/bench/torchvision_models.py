"""torchvision's detectors as contestants: a training step as in its reference training."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torchvision
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import AnchorGenerator

from detector.structures import Batch

MOBILE_ROIS = 128  # RoIs an image of the detector on MobileNetV2
MOBILE_TRAIN = (2000, 1000)  # its proposals before and after NMS


def resnet50_fpn_step(batch: Batch, num_classes: int) -> Callable[[], object]:
    """Return a step of Faster R-CNN on a ResNet-50 with FPN, res3 and later trained."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torchvision.models.detection.fasterrcnn_resnet50_fpn(
            weights=None,
            weights_backbone=None,
            num_classes=num_classes + 1,
            trainable_backbone_layers=3,
            **_size(batch),
        )
    for name, parameter in model.backbone.body.named_parameters():  # torchvision freezes no layers without weights
        parameter.requires_grad_(name.startswith(("layer2", "layer3", "layer4")))
    return _step(model, batch)


def mobilenet_v2_step(batch: Batch, num_classes: int) -> Callable[[], object]:
    """Return a step of Faster R-CNN on MobileNetV2's map of stride 16, as in torchvision's tutorial; all is trained."""
    network = torchvision.models.mobilenet_v2(weights=None, norm_layer=torchvision.ops.FrozenBatchNorm2d)
    body = network.features[:14]
    body.out_channels = 96
    model = FasterRCNN(
        body,
        num_classes + 1,
        rpn_anchor_generator=AnchorGenerator(((32, 64, 128, 256, 512),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=torchvision.ops.MultiScaleRoIAlign(["0"], 7, 2),
        box_batch_size_per_image=MOBILE_ROIS,
        rpn_pre_nms_top_n_train=MOBILE_TRAIN[0],
        rpn_post_nms_top_n_train=MOBILE_TRAIN[1],
        **_size(batch),
    )
    return _step(model, batch)


def _size(batch: Batch) -> dict[str, int]:
    sides = batch.images[0].shape[1:]
    return {"min_size": min(sides), "max_size": max(sides)}


def _step(model: torch.nn.Module, batch: Batch) -> Callable[[], object]:
    model.to(batch.images[0].device).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4, momentum=0.9)
    images = [image.float() / 255 for image in batch.images]
    targets = [{"boxes": item.boxes, "labels": item.labels} for item in batch.instances]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        sum(model(images, targets).values()).backward()
        optimizer.step()

    return step
