"""A separable convolution equals a dense one with a product weight, and starts with the same variance."""

import torch
from torch import nn
from torch.nn import functional as F

from detector.separable import SeparableConv2d, conv3x3


def test_a_separable_convolution_equals_the_dense_one_with_the_product_weight() -> None:
    torch.manual_seed(0)
    layer = SeparableConv2d(4, 6).double()
    depthwise, pointwise = layer
    assert isinstance(depthwise, nn.Conv2d)
    assert isinstance(pointwise, nn.Conv2d)
    maps = torch.randn(2, 4, 7, 5, dtype=torch.float64)
    dense = pointwise.weight * depthwise.weight.squeeze(1)[None]  # [6, 4, 1, 1] * [1, 4, 3, 3]
    torch.testing.assert_close(layer(maps), F.conv2d(maps, dense, pointwise.bias, padding=1))


def test_initial_weights_keep_the_variance_of_the_input() -> None:
    torch.manual_seed(0)
    out = SeparableConv2d(128, 128)(torch.randn(2, 128, 32, 32))
    assert 0.7 < out.std().item() < 1.3


def test_both_kinds_keep_the_size_of_the_map() -> None:
    for separable in (False, True):
        assert conv3x3(3, 5, separable=separable)(torch.zeros(1, 3, 6, 9)).shape == (1, 5, 6, 9)
