"""Shapes without computation."""

import pytest
import torch
from torchvision import models

from detector.backbones.dry_run import dry_run


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_the_shapes_are_those_of_a_real_image(name: str) -> None:
    """ShuffleNet reshapes its maps, the others do not."""
    network = models.get_model(name, weights=None).eval()
    features = torch.nn.Sequential(*list(network.children())[:-2]) if name != "mobilenet_v3_small" else network.features
    assert dry_run(features, 96, 160).shape[1:] == features(torch.zeros(1, 3, 96, 160)).shape[1:]


def test_the_network_does_not_change() -> None:
    network = models.resnet18(weights=None)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    dry_run(network, 64, 64)
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_indices_keep_their_values() -> None:
    network = torch.nn.Module()
    network.register_buffer("channels", torch.tensor([2, 0]))
    network.forward = lambda images: images[:, network.channels]
    assert dry_run(network, 8, 9).shape[1:] == (2, 8, 9)


def test_a_reshape_that_does_not_fit_is_an_error() -> None:
    """An empty tensor fits any shape."""
    network = torch.nn.Unflatten(2, (4, 7))
    assert dry_run(network, 28, 30).shape[1:] == (3, 4, 7, 30)
    with pytest.raises(RuntimeError, match="30"):
        dry_run(network, 30, 30)


def test_a_network_on_the_meta_device_has_shapes() -> None:
    assert dry_run(torch.nn.Conv2d(3, 5, 3, device="meta"), 10, 12).shape[1:] == (5, 8, 10)
