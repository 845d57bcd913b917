"""int8 layers against the same layers in float32."""

import copy

import pytest
import torch
from torch import nn

from detector.backbones.tail import fc_tail
from detector.quantize import Int8Linear, quantize_layers


def test_the_product_equals_the_hand_rounded_product() -> None:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[127.0, -64, 1.2], [0.254, 0.0009, 0.002]]))
        layer.bias.copy_(torch.tensor([1.0, 2.0]))
    features = torch.tensor([[-55.0, 200.0, 5.3]])  # in steps of 1
    weight = torch.tensor([[127.0, -64, 1], [0.254, 0.0, 0.002]])  # rows in steps of 1 and of 0.002
    expected = torch.tensor([[-55.0, 200.0, 5.0]]) @ weight.T + layer.bias
    torch.testing.assert_close(Int8Linear(layer)(features), expected, atol=1e-3, rtol=1e-5)


def test_a_quantized_tail_equals_the_original_up_to_rounding() -> None:
    torch.manual_seed(0)
    tail = fc_tail(16, 7, 64).eval()
    pooled = torch.randn(50, 16, 7, 7).relu()
    expected = tail(pooled)
    twin = copy.deepcopy(tail)
    quantize_layers(twin)
    found = twin(pooled)
    assert [type(layer) for layer in twin] == [nn.Flatten, Int8Linear, nn.ReLU, Int8Linear, nn.ReLU]
    assert 0 < (found - expected).norm() < 0.02 * expected.norm()  # two roundings of about 0.7 % each
    assert twin(pooled[:0]).shape == (0, 64)
    assert torch.equal(tail(pooled), expected), "the original layers are unchanged"


def test_zeros_stay_zeros() -> None:
    layer = nn.Linear(4, 2, bias=False)
    features = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert (Int8Linear(layer)(torch.zeros(3, 4)) == 0).all()
    nn.init.zeros_(layer.weight)
    assert (Int8Linear(layer)(features) == 0).all()


def test_a_module_without_linear_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="head with fully connected layers"):
        quantize_layers(nn.Sequential(nn.Conv2d(3, 3, 1)))
