"""Dilation (a trous): a dilated network computes the cells of the strided network unchanged, and more between them."""

import pytest
import torch
from torch import nn
from torchvision import models

from detector.backbones.dilation import convolve, limit_stride

NODES = {"mobilenet_v2": "features", "resnet18": "layer4", "efficientnet_b0": "features"}


def features(network: nn.Module, node: str, images: torch.Tensor) -> torch.Tensor:
    found = []
    hook = network.get_submodule(node).register_forward_hook(lambda module, inputs, output: found.append(output))
    with torch.no_grad():
        network(images)
    hook.remove()
    return found[0]


@pytest.mark.parametrize("name", NODES)
@pytest.mark.parametrize("most", [8, 16])
def test_every_cell_of_the_strided_network_is_kept(name: str, most: int) -> None:
    torch.manual_seed(0)
    network = models.get_model(name, weights=None).double().eval()
    images = torch.randn(2, 3, 128, 192, dtype=torch.float64)
    if name == "efficientnet_b0":  # without its gates: they average over the map, which now has more cells
        for gate in [
            module for module in network.modules() if isinstance(module, models.efficientnet.SqueezeExcitation)
        ]:
            gate.forward = lambda x: x
    before = features(network, NODES[name], images)
    limit_stride(network, most)
    after = features(network, NODES[name], images)
    step = 32 // most
    assert before.shape[2:] == (4, 6)
    assert after.shape[2:] == (4 * step, 6 * step)
    torch.testing.assert_close(after[:, :, ::step, ::step], before)
    limit_stride(network, 32)
    torch.testing.assert_close(features(network, NODES[name], images), after, msg="nothing to do at a larger stride")


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="power of two, got 12"):
        limit_stride(nn.Conv2d(3, 3, 1), 12)
    with pytest.raises(ValueError, match="does not take an image of 512 x 512"):
        limit_stride(models.get_model("vit_b_32", weights=None), 16)


@pytest.mark.parametrize(("side", "stride", "dilation"), [(3, 1, 3), (3, 2, 1), (5, 1, 1), (5, 2, 2)])
@pytest.mark.parametrize("size", [(12, 18), (7, 11), (1, 2)])
def test_a_depthwise_convolution_equals_torch_and_trains(
    side: int, stride: int, dilation: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    padding = side // 2 * dilation
    conv = nn.Conv2d(5, 5, side, stride=stride, padding=padding, dilation=dilation, groups=5).double()
    x = torch.randn(2, 5, *size, dtype=torch.float64, requires_grad=True)
    assert conv.bias is not None
    ours = convolve(x, conv.weight, conv.bias, conv)
    assert "ConvolutionBackward" not in str(ours.grad_fn)
    torch.testing.assert_close(ours, conv(x))
    with torch.no_grad():
        assert torch.equal(convolve(x, conv.weight, conv.bias, conv), conv(x))


def test_a_plain_convolution_stays_in_the_library() -> None:
    for conv in (nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 4, 3, stride=2), nn.Conv2d(1, 1, 3, stride=2)):
        x = torch.randn(1, conv.in_channels, 6, 6, requires_grad=True)
        assert "ConvolutionBackward" in str(convolve(x, conv.weight, conv.bias, conv).grad_fn)


def test_a_dilated_depthwise_convolution_in_bf16_keeps_its_weights_in_float32() -> None:
    conv = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8, bias=False)
    x = torch.randn(1, 8, 9, 9, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        ours = convolve(x, conv.weight, None, conv)
        expected = conv(x)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours, expected, rtol=2**-7, atol=2**-6)
    ours.float().sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad.dtype == torch.float32
