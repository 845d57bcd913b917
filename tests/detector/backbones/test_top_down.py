"""Several maps joined into one."""

import pytest
import torch

from detector.backbones.top_down import TopDown
from detector.backbones.torchvision import TorchvisionBackbone


def identity(join: TopDown) -> TopDown:
    """Lateral convolutions that copy the first channel, and no smoothing."""
    with torch.no_grad():
        for conv in join.lateral:
            conv.weight.zero_()
            conv.weight[0, 0] = 1.0
        join.smooth.weight.zero_()
        join.smooth.weight[0, 0, 1, 1] = 1.0
    return join


def test_coarse_cells_are_added_to_the_fine_cells_they_cover() -> None:
    fine, coarse = torch.arange(16.0).reshape(1, 1, 4, 4), torch.tensor([[[[100.0, 200.0], [300.0, 400.0]]]])
    joined = identity(TopDown([1, 1], 1))([fine, coarse])
    expected = fine + torch.tensor(
        [[100.0, 100, 200, 200], [100, 100, 200, 200], [300, 300, 400, 400], [300, 300, 400, 400]]
    )
    assert torch.equal(joined, expected[None].reshape(1, 1, 4, 4))


def test_the_coarsest_map_reaches_the_finest() -> None:
    maps = [torch.zeros(1, 2, 9, 13), torch.zeros(1, 3, 5, 7), torch.ones(1, 4, 3, 4)]
    joined = identity(TopDown([2, 3, 4], 1))(maps)
    assert joined.shape == (1, 1, 9, 13)
    assert torch.equal(joined, torch.ones(1, 1, 9, 13))


def make(**changes: object) -> TorchvisionBackbone:
    settings = {
        "name": "mobilenet_v2", "node": "features.6", "proposals_node": None, "deeper_nodes": ["features.13"],
        "joined_channels": 24, "max_stride": None, "norm": "frozen_bn", "frozen_nodes": None, "tail": None,
        "tail_channels": 0, "pooled_size": 0,
    }  # fmt: skip
    return TorchvisionBackbone(**{**settings, **changes})  # type: ignore[arg-type]


def test_head_and_rpn_read_the_same_joined_map() -> None:
    backbone = make()
    maps = backbone(torch.zeros(1, 3, 64, 96))
    assert (backbone.strides, backbone.head_channels, backbone.proposal_channels) == ((8,), 24, 24)
    assert maps.head[0].shape == (1, 24, 8, 12)
    assert maps.proposals[0] is maps.head[0]


def test_new_layers_are_not_expected_in_a_classifiers_weights() -> None:
    backbone = make()
    assert backbone.rename("features.0.0.weight") == "body.features.0.0.weight"
    assert any(key.startswith("top_down.") for key in backbone.state_dict())
    assert not any(key.startswith("body.top_down.") for key in backbone.state_dict())


def test_maps_whose_strides_do_not_increase_are_refused() -> None:
    with pytest.raises(ValueError, match="by increasing stride"):
        make(deeper_nodes=["features.5"])
