"""Finds RoIs that `roi_pool` rounds to the same cells, so that their features are computed once.

On a map of stride 16, a quarter of Selective Search's boxes rounds to the same cells as another box.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detector.ops._arguments import checked_rois
from detector.ops.roi_pool import image_index, whole_cells


def distinct_rois(
    features: Tensor, rois: Tensor, spatial_scale: float, *, quantization: str = "caffe"
) -> tuple[Tensor, Tensor]:
    """Return `kept` [U] int64, ascending indices of RoIs that pool different cells, and `place` [R], see below.

    Of RoIs with the same cells the first is kept. With the same arguments, `roi_pool(features, rois[kept], ...)[place]`
    has the same bits as `roi_pool(features, rois, ...)`, for every output size. The host waits for the device, since U
    depends on the values.

    Args:
        features, rois [R, 5], spatial_scale, quantization: as in `roi_pool`.

    Raises:
        ValueError: as in `roi_pool`.
    """
    rois = checked_rois("distinct_rois", features, rois)
    key = [image_index(rois, features.shape[0]).to(rois.dtype)]
    for low, high in ((rois[:, 1], rois[:, 3]), (rois[:, 2], rois[:, 4])):
        finite = low.isfinite() & high.isfinite()  # the other RoIs have no cells
        key += [item.where(finite, torch.nan) for item in whole_cells(low, high, spatial_scale, quantization)]
    # Compare bits, since NaN is not equal to itself. Adding 0 turns -0 into 0.
    bits = (torch.stack(key, dim=1) + 0.0).view(torch.int64 if rois.dtype == torch.float64 else torch.int32)
    _, group = bits.unique(dim=0, return_inverse=True)
    index = torch.arange(len(rois), device=rois.device)
    first = torch.empty_like(index).scatter_reduce(0, group, index, "amin", include_self=False)[group]
    kept = first == index
    return kept.nonzero().squeeze(1), (kept.cumsum(0) - 1)[first]
