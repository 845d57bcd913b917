"""Checks of the arguments that all RoI operators share, made on the host before a kernel runs.

All errors are ValueErrors with three parts: the expected value, the given value, the remedy. The checks do not wait for
a GPU: values of RoIs are read on the CPU only, or on every device with DETECTOR_DEBUG=1 in the environment.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from detector.ops._library import LIBRARY
from detector.ops.boxes import to_rois

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _debug_mode() -> bool:
    """Return whether DETECTOR_DEBUG asks for checks of values on every device."""
    return os.environ.get("DETECTOR_DEBUG", "0") not in {"", "0"}


DEBUG = _debug_mode()


def edge_dtype(features: Tensor) -> torch.dtype:
    """Dtype of all arithmetic on RoI coordinates: float64 for float64 features of any shape, else float32."""
    return torch.float64 if features.dtype == torch.float64 else torch.float32


def output_pair(op: str, output_size: int | Sequence[int]) -> tuple[int, int]:
    """Bins (height, width) from an output size, an int or a pair. Raises ValueError unless both are positive."""
    pair = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    if len(pair) != 2 or not all(isinstance(bins, int) and bins > 0 for bins in pair):
        raise ValueError(f"{op}: expected output_size as a positive int or a pair (height, width), got {output_size}")
    return pair[0], pair[1]


def checked_rois(op: str, features: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
    """RoIs [R, 5] (image index, x1, y1, x2, y2) in the edge dtype of `features`, from [R, 5] or [R_i, 4] per image.

    Raises:
        ValueError: a wrong shape, dtype or device, or (on the CPU, or with DETECTOR_DEBUG) an image index outside
            0..N-1; without this check, kernels treat such a RoI as empty.
    """
    if features.dim() != 4 or features.dtype not in FLOATS:
        raise ValueError(
            f"{op}: expected features [N, C, H, W] of float32, float64, float16 or bfloat16, "
            f"got {_describe(features)}; add the image dimension or cast them"
        )
    dtype = edge_dtype(features)
    if isinstance(rois, Tensor):
        _check_rois(op, rois, features, 5, "rois [R, 5] (image index, x1, y1, x2, y2)")
        joined = rois if rois.dtype == dtype else rois.to(dtype)
    else:
        if len(rois) != features.shape[0]:
            raise ValueError(
                f"{op}: expected one tensor of boxes for each of {features.shape[0]} images, got {len(rois)}; "
                "give an empty [0, 4] for an image without boxes"
            )
        for index, part in enumerate(rois):
            _check_rois(op, part, features, 4, f"boxes [R_i, 4] (x1, y1, x2, y2) as rois[{index}]")
        joined = to_rois([part.to(dtype) for part in rois]) if len(rois) else features.new_zeros((0, 5), dtype=dtype)
    if (joined.device.type == "cpu" or DEBUG) and not torch.compiler.is_compiling() and joined.shape[0] > 0:
        _check_image_index(op, joined, features.shape[0])
    return joined


def _check_rois(op: str, rois: Tensor, features: Tensor, columns: int, expected: str) -> None:
    if rois.dim() != 2 or rois.shape[1] != columns or not rois.dtype.is_floating_point:
        raise ValueError(
            f"{op}: expected {expected} of a floating dtype, got {_describe(rois)}; "
            "build them with detector.ops.boxes.to_rois"
        )
    if rois.device != features.device:
        raise ValueError(
            f"{op}: expected rois on the device of the features, {features.device}, got {rois.device}; move one of them"
        )


def _check_image_index(op: str, rois: Tensor, num_images: int) -> None:
    low, high = _image_range(rois)
    if not (low >= 0 and high < num_images):
        raise ValueError(
            f"{op}: expected image indices rois[:, 0] in 0..{num_images - 1} for {num_images} images, "
            f"got values from {low} to {high}; number the images of the batch from 0"
        )


def _image_range_reference(rois: Tensor) -> tuple[float, float]:
    """The smallest and the largest image index of rois [R, 5]; NaN if one is NaN."""
    low, high = torch.aminmax(rois.detach()[:, 0])
    return low.item(), high.item()


LIBRARY.impl("image_range", _image_range_reference, "CompositeExplicitAutograd")
_image_range = torch.ops.fast_rfcn.image_range.default


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
