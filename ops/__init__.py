"""The RoI operators and box arithmetic. `native_status()` lists the kernels that run them on this machine."""

from detector.ops import _native
from detector.ops._native import KernelStatus, native_status
from detector.ops.deform_ps_roi_pool import deform_ps_roi_pool
from detector.ops.nms import batched_nms, nms
from detector.ops.ps_roi_align import ps_roi_align
from detector.ops.ps_roi_pool import ps_roi_pool, ps_roi_vote
from detector.ops.roi_align import roi_align
from detector.ops.roi_pool import roi_pool
from detector.ops.roi_warp import roi_warp

__all__ = [
    "KernelStatus",
    "batched_nms",
    "deform_ps_roi_pool",
    "native_status",
    "nms",
    "ps_roi_align",
    "ps_roi_pool",
    "ps_roi_vote",
    "roi_align",
    "roi_pool",
    "roi_warp",
]

_native.load()
