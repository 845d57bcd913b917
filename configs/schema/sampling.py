"""Which RoIs a training step learns from."""

from __future__ import annotations

from dataclasses import dataclass

from detector.configs.missing import MISSING


@dataclass
class SamplingConfig:
    """Which RoIs a training step learns from (Fast R-CNN 2.3)."""

    kind: str = MISSING
    rois_per_image: int = 64  # RoIs of each image that the loss looks at
    foreground_iou: float = 0.5  # a RoI with this IoU or more to an object has its class
    background_iou_low: float = 0.1  # background RoIs have at least this IoU, so that they lie near objects
    background_iou_high: float = 0.5  # background RoIs have an IoU below this
    append_truths: bool = True  # ground-truth boxes join the proposals
    use_difficult: bool = True  # train on `difficult` objects, as fast-rcnn did; py-faster-rcnn and R-FCN left them out


@dataclass
class RandomSamplingConfig(SamplingConfig):
    kind: str = "random"
    foreground_fraction: float = 0.25  # at most this share of the RoIs is foreground


@dataclass
class OHEMConfig(SamplingConfig):
    """Online hard example mining: the loss on the hardest `rois_per_image` of all RoIs (R-FCN, section 3)."""

    kind: str = "ohem"
    rois_per_image: int = 128  # the hardest so many of all RoIs
    background_iou_low: float = 0.0  # mining finds the hard ones itself, so every RoI may be background
