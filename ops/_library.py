"""The schemas of all operators, in one table. They are defined in the dispatcher even without compiled libraries.

Each `ops/<name>.py` calls `register` with the PyTorch reference, which is the fallback kernel on every device
(CompositeExplicitAutograd), the fake kernel and the autograd formula. The compiled libraries add only CPU and CUDA
kernels. Public functions call the operator that `register` returns, never a compiled module directly.

No operator has an autocast rule, on purpose: features are pooled in their own dtype (maxima are exact in any dtype,
sums are accumulated in float32 or better), and RoIs must never be cast to half precision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

NAMESPACE = "fast_rfcn"

# An operator that computes the gradient of the features takes their size (SymInt[] size), not the features.
SCHEMAS: tuple[str, ...] = (
    "roi_pool(Tensor features, Tensor rois, int height, int width, float spatial_scale, str quantization,"
    " bool with_argmax) -> (Tensor pooled, Tensor argmax)",
    "roi_pool_scatter(Tensor grad, Tensor rois, Tensor argmax, SymInt[] size) -> Tensor",
    "roi_pool_gather(Tensor features, Tensor rois, Tensor argmax) -> Tensor",
    "roi_align(Tensor features, Tensor rois, int height, int width, float spatial_scale, int sampling_ratio,"
    " bool aligned, bool inner) -> Tensor",
    "roi_align_backward(Tensor grad, Tensor rois, SymInt[] size, float spatial_scale, int sampling_ratio,"
    " bool aligned, bool inner) -> Tensor",
    "roi_align_max(Tensor features, Tensor rois, int height, int width, float spatial_scale, int sampling_ratio,"
    " bool aligned, bool inner) -> (Tensor pooled, Tensor argmax)",
    "roi_align_max_scatter(Tensor grad, Tensor rois, Tensor argmax, SymInt[] size, float spatial_scale,"
    " int sampling_ratio, bool aligned, bool inner) -> Tensor",
    "roi_align_max_gather(Tensor features, Tensor rois, Tensor argmax, float spatial_scale, int sampling_ratio,"
    " bool aligned, bool inner) -> Tensor",
    "roi_warp(Tensor features, Tensor rois, int height, int width, float spatial_scale) -> Tensor",
    "roi_warp_backward(Tensor grad, Tensor features, Tensor rois, float spatial_scale) -> (Tensor, Tensor)",
    "ps_roi_pool(Tensor score_maps, Tensor rois, int bins, float spatial_scale) -> Tensor",
    "ps_roi_pool_backward(Tensor grad, Tensor rois, SymInt[] size, float spatial_scale) -> Tensor",
    "ps_roi_pool_max(Tensor score_maps, Tensor rois, int bins, float spatial_scale, bool with_argmax)"
    " -> (Tensor pooled, Tensor argmax)",
    "ps_roi_vote(Tensor score_maps, Tensor rois, int bins, float spatial_scale) -> Tensor",
    "ps_roi_vote_max(Tensor score_maps, Tensor rois, int bins, float spatial_scale, bool with_argmax)"
    " -> (Tensor votes, Tensor argmax)",
    "ps_roi_align(Tensor score_maps, Tensor rois, int bins, float spatial_scale, int sampling_ratio) -> Tensor",
    "ps_roi_align_backward(Tensor grad, Tensor rois, SymInt[] size, float spatial_scale, int sampling_ratio) -> Tensor",
    "deform_ps_roi_pool(Tensor score_maps, Tensor rois, Tensor? offsets, int bins, float spatial_scale,"
    " float offset_scale, int sampling_ratio) -> Tensor",
    "deform_ps_roi_pool_backward(Tensor grad, Tensor rois, Tensor? offsets, SymInt[] size, float spatial_scale,"
    " float offset_scale, int sampling_ratio) -> Tensor",
    "deform_ps_roi_pool_offset_grad(Tensor grad, Tensor score_maps, Tensor rois, Tensor offsets, float spatial_scale,"
    " float offset_scale, int sampling_ratio) -> Tensor",
    "depthwise(Tensor x, Tensor kernel, Tensor bias, int stride, int dilation, int padding) -> Tensor",
    "depthwise_input_grad(Tensor grad, Tensor kernel, SymInt[] size, int stride, int dilation, int padding) -> Tensor",
    "depthwise_weight_grad(Tensor grad, Tensor x, int k, int stride, int dilation, int padding) -> Tensor",
    "image_range(Tensor rois) -> (float low, float high)",
    "nms(Tensor boxes, Tensor scores, Tensor? labels, float iou_threshold, int? max_output) -> Tensor",
)

# On a GPU PyTorch's own convolution is fast, and image indices are checked for debugging only.
CPU_ONLY = ("image_range", "depthwise", "depthwise_input_grad", "depthwise_weight_grad")

LIBRARY = torch.library.Library(NAMESPACE, "DEF")
for _schema in SCHEMAS:
    LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


class Context(Protocol):
    """The context that `setup` fills and `backward` reads, see `register`."""

    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Tensor, ...]
    options: tuple[Any, ...]  # values that are not tensors

    def save_for_backward(self, *tensors: Tensor) -> None: ...

    def mark_non_differentiable(self, *tensors: Tensor) -> None: ...


def register(
    name: str,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    setup: Callable[[Any, tuple[Any, ...], Any], None],
    backward: Callable[..., Any],
) -> Callable[..., Any]:
    """Return the operator `name` of SCHEMAS. `reference` is its kernel on every device without a compiled kernel.

    `reference` and `fake` take the operator's arguments. `setup(ctx, inputs, output)` and `backward(ctx, *grads)` are
    the two halves of its gradient (see `torch.library.register_autograd`).
    """
    LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    qualified = f"{NAMESPACE}::{name}"
    torch.library.register_fake(qualified, fake, lib=LIBRARY)
    torch.library.register_autograd(qualified, backward, setup_context=setup, lib=LIBRARY)
    operator: Callable[..., Any] = getattr(getattr(torch.ops, NAMESPACE), name).default
    return operator
