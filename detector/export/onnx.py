"""Exports a detector's graph as an ONNX model with standard operators only, opset 18.

    roi_pool  -> MaxRoiPool          the bins of the published layer; equal bit for bit
    roi_align -> RoiAlign            half_pixel
    nms       -> NonMaxSuppression   then sorted over all labels
    ps_roi_*  -> matrix products     see `standard.py`

The model's metadata has everything that a caller needs: class names, box format, and the settings of the export.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from detector.export.graph import DetectorGraph
from detector.export.program import export_program
from detector.export.standard import standard_operators

OPSET = 18
LOWEST = -3.4028234663852886e38  # of float32
ALL = sys.maxsize


def export_onnx(graph: DetectorGraph, path: Path, metadata: dict[str, Any]) -> None:
    """Write the model of a graph to `path`, with `metadata` (plain values) as JSON, one property for each key.

    Raises:
        ValueError: a package is missing, or there is no standard operator for the graph's pooling.
    """
    try:
        import onnxscript
    except ImportError as error:
        raise ValueError("format=onnx needs onnx and onnxscript: pip install 'fast-rfcn[export]'") from error
    translations = translated(onnxscript.opset18)
    standard = standard_operators(graph.detector.preprocess.longest_map_side)
    program = export_program(graph).run_decompositions(
        {operator: form for operator, form in standard.items() if operator not in translations}
    )
    exported = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=OPSET,
        input_names=graph.input_names,
        output_names=graph.output_names,
        custom_translation_table=translations,
        verbose=False,
    )
    assert exported is not None
    exported.model.metadata_props.update({key: json.dumps(value) for key, value in metadata.items()})
    exported.save(path)


def translated(op: Any) -> dict[Any, Callable[..., Any]]:
    """Return, for each of the project's operators that ONNX has too, a function that builds nodes of the opset `op`."""
    ops = torch.ops.fast_rfcn

    def roi_pool(
        features: Any, rois: Any, height: int, width: int, spatial_scale: float, quantization: str, with_argmax: bool
    ) -> Any:
        if quantization != "caffe":
            raise ValueError(f"ONNX's MaxRoiPool needs a head with quantization='caffe', got {quantization!r}")
        pooled = op.MaxRoiPool(features, rois, pooled_shape=[height, width], spatial_scale=spatial_scale)
        return pooled, op.Shape(op.Constant(value_float=0.0))

    def roi_align(
        features: Any,
        rois: Any,
        height: int,
        width: int,
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool,
        inner: bool,
    ) -> Any:
        if inner:
            raise ValueError("ONNX's RoiAlign has no inner sample grid; export a head with sample_grid='centers'")
        return op.RoiAlign(
            features,
            op.Slice(rois, [1], [5], [1]),
            op.Cast(op.Squeeze(op.Slice(rois, [0], [1], [1]), [1]), to=7),
            output_height=height,
            output_width=width,
            sampling_ratio=sampling_ratio,
            spatial_scale=spatial_scale,
            coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
        )

    def nms(boxes: Any, scores: Any, labels: Any, iou_threshold: float, max_output: int | None = None) -> Any:
        limit = ALL if max_output is None else max_output
        if labels is None:
            by_class = op.Unsqueeze(scores, [0, 1])  # [1, 1, N]
        else:
            # Scores [1, classes, N], -inf where a box has another label; the threshold LOWEST removes these.
            largest = op.ReduceMax(op.Concat(labels, [0], axis=0), keepdims=0)
            classes = op.Range(op.Constant(value_int=0), op.Add(largest, 1), op.Constant(value_int=1))
            of_class = op.Equal(op.Unsqueeze(labels, [0]), op.Unsqueeze(classes, [1]))
            absent = op.Constant(value_float=float("-inf"))
            by_class = op.Unsqueeze(op.Where(of_class, op.Unsqueeze(scores, [0]), absent), [0])
        selected = op.NonMaxSuppression(op.Unsqueeze(boxes, [0]), by_class, [limit], [iou_threshold], [LOWEST])
        kept = op.Squeeze(op.Slice(selected, [2], [3], [1]), [1])
        # Sort by index first, so that among equal scores the first box comes first, for any classes.
        _, order = op.TopK(kept, op.Shape(kept), largest=0)
        kept = op.Gather(kept, order)
        _, order = op.TopK(op.Gather(scores, kept), op.Shape(kept))
        return op.Gather(kept, op.Slice(order, [0], [limit], [0]))

    return {ops.roi_pool.default: roi_pool, ops.roi_align.default: roi_align, ops.nms.default: nms}
