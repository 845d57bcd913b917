"""The last block of each stride, for networks whose blocks are known from their papers."""

import pytest

from detector.backbones.nodes import nodes_by_stride


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mobilenet_v2", {4: "features.3", 8: "features.6", 16: "features.13", 32: "features.18"}),
        ("resnet18", {4: "layer1.1", 8: "layer2.1", 16: "layer3.1", 32: "layer4.1"}),
        ("squeezenet1_1", {4: "features.4", 8: "features.7", 16: "features.12"}),
        ("inception_v3", {4: "Conv2d_4a_3x3", 8: "Mixed_5d", 16: "Mixed_6e", 32: "Mixed_7c"}),
        ("googlenet", {4: "conv3", 8: "inception3b", 16: "inception4e", 32: "inception5b"}),
        ("convnext_tiny", {4: "features.1", 8: "features.3", 16: "features.5", 32: "features.7"}),
    ],
)
def test_the_blocks_of_known_networks_are_found(name: str, expected: dict[int, str]) -> None:
    found = nodes_by_stride(name)
    assert {stride: found[stride] for stride in expected} == expected


def test_an_unknown_name_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(ValueError, match="no classifier 'resnet51'; nearest: .*resnet50"):
        nodes_by_stride("resnet51")
