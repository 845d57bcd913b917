"""All worked examples of the papers and documents that this project implements."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from detector import ops


def _table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("vectors", Path(__file__).with_name("vectors.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


VECTORS = _table()


def evaluate(case: dict[str, Any], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the features [1, C, H, W] and the operator's output."""
    features = torch.tensor(case["features"], dtype=dtype)
    features = features.view(1, -1, *features.shape[-2:]).requires_grad_()
    rois = torch.tensor(case["rois"], dtype=dtype)
    operator = getattr(ops, case["op"])
    return features, operator(features, rois, tuple(case["output_size"]), case["spatial_scale"], **case["options"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", VECTORS.CASES, ids=lambda case: case["name"])
def test_worked_examples_give_the_published_values(case: dict[str, Any], dtype: torch.dtype) -> None:
    _, output = evaluate(case, dtype)
    torch.testing.assert_close(
        output[0, 0], torch.tensor(case["expected"], dtype=dtype), atol=VECTORS.TOLERANCE, rtol=0
    )


@pytest.mark.parametrize("case", VECTORS.GRADIENTS, ids=lambda case: case["name"][:40])
def test_worked_examples_give_the_published_gradients(case: dict[str, Any]) -> None:
    features, output = evaluate(case, torch.float32)
    (grad,) = torch.autograd.grad(output.sum(), features)
    expected = torch.tensor(case["expected"], dtype=torch.float32).view_as(grad)
    torch.testing.assert_close(grad, expected, atol=VECTORS.TOLERANCE, rtol=0)


def test_float32_edges_differ_from_exact_ones_as_published() -> None:
    # 7 * float32(57 / 7) exceeds 57, so the last bin reads one column outside the RoI; float64 does not.
    features = torch.zeros(1, 1, 1, 60)
    features[..., 57] = 1
    rois = torch.tensor([[0.0, 0, 0, 56, 0]])
    assert ops.roi_pool(features, rois, (1, 7), 1.0)[0, 0, 0, -1] == 1
    assert ops.roi_pool(features.double(), rois, (1, 7), 1.0)[0, 0, 0, -1] == 0


def test_the_floor_rule_with_a_stride_of_32() -> None:
    # 512 x 512 image, RoI x=296, y=192, w=200, h=145: cells 9..14 x 6..9, bins 2 wide and 1 high, the last row dropped.
    features = torch.arange(256.0).view(1, 1, 16, 16)
    pooled = ops.roi_pool(features, torch.tensor([[0.0, 296, 192, 496, 337]]), 3, 1 / 32, quantization="floor")
    rows, columns = torch.tensor([6, 7, 8]), torch.tensor([10, 12, 14])
    assert torch.equal(pooled[0, 0], rows[:, None] * 16.0 + columns)
