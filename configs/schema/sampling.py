"""The choice of the RoIs that enter the loss."""

from __future__ import annotations

from dataclasses import dataclass

from detector.configs.missing import MISSING


@dataclass
class SamplingConfig:
    """The choice of the RoIs that enter the loss (Fast R-CNN 2.3)."""

    kind: str = MISSING
    rois_per_image: int = 64  # number of RoIs of each image in the loss
    foreground_iou: float = 0.5  # a RoI with at least this IoU with an object gets the object's class
    background_iou_low: float = 0.1  # lowest IoU of background RoIs, so that they lie near objects
    background_iou_high: float = 0.5  # background RoIs have an IoU below this
    append_truths: bool = True  # add the ground-truth boxes to the proposals
    use_difficult: bool = True  # train on `difficult` objects, as fast-rcnn does; py-faster-rcnn and R-FCN do not


@dataclass
class RandomSamplingConfig(SamplingConfig):
    """Random RoIs with a share of foreground (Fast R-CNN, 2.3)."""

    kind: str = "random"
    foreground_fraction: float = 0.25  # largest fraction of foreground among the RoIs


@dataclass
class OHEMConfig(SamplingConfig):
    """Online hard example mining: only the `rois_per_image` RoIs with the largest loss are trained on (R-FCN 3)."""

    kind: str = "ohem"
    rois_per_image: int = 128  # number of RoIs of each image, those with the largest loss
    background_iou_low: float = 0.0  # 0: any RoI may be background; mining selects the hard ones
