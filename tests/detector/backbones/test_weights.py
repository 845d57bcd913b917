"""Weight files: loading, refusals, and a cache that is verified on every use."""

import hashlib
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision import models

from detector.backbones.resnet import ResNet
from detector.backbones.weights import load_classifier_weights, torchvision_normalisation
from detector.build import build_backbone, load_backbone_weights
from detector.configs import schema
from detector.configs.compose import load_config
from detector.configs.errors import ConfigError
from detector.pipeline.training import normalised_for_weights


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    found: dict[str, Tensor] = models.resnet18(weights=None).state_dict()
    return found


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch.hub."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def resnet18(tail: str | None = "fc", norm: str = "frozen_bn", width: float = 1.0) -> ResNet:
    return ResNet(
        depth=18,
        norm=norm,
        width=width,
        frozen_stages=2,
        dilated_c5=False,
        stride_in_1x1=False,
        tail=tail,
        tail_channels=8,
        pooled_size=2,
    )


def load(backbone: ResNet, weights: Any, sha256: str | None = None) -> None:
    load_classifier_weights(backbone, str(weights), architecture="resnet18", sha256=sha256)


def save(path: Path, state: object) -> str:
    """Save `state` and return the file's sha256."""
    torch.save(state, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_new_tail_keeps_its_values_and_is_logged(
    state: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    digest = save(tmp_path / "resnet18.pth", state)
    backbone = resnet18()
    assert backbone.tail is not None
    before = [item.clone() for item in backbone.tail.parameters()]
    with caplog.at_level(logging.INFO, logger="detector"):
        load(backbone, tmp_path / "resnet18.pth", digest)
    assert all(torch.equal(a, b) for a, b in zip(before, backbone.tail.parameters(), strict=True))
    assert torch.equal(backbone.conv1.weight, state["conv1.weight"])
    assert "new layers: tail.1, tail.3" in caplog.text


def test_a_native_tail_is_loaded_and_required(state: dict[str, Tensor], tmp_path: Path) -> None:
    save(tmp_path / "whole.pth", state)
    backbone = resnet18(tail="native")
    load(backbone, tmp_path / "whole.pth")
    key = "layer4.1.conv2.weight"
    assert torch.equal(backbone.state_dict()[f"tail.0.{key.removeprefix('layer4.')}"], state[key])
    save(tmp_path / "part.pth", {k: v for k, v in state.items() if k != key})
    with pytest.raises(ValueError, match=r"1 missing \(first: tail.0.1.conv2.weight\)"):
        load(resnet18(tail="native"), tmp_path / "part.pth")
    load(resnet18(tail="fc"), tmp_path / "part.pth")  # this tail has no res5


def test_weights_that_do_not_fit_are_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "resnet18.pth"
    save(path, state)
    with pytest.raises(ValueError, match=r"conv1.weight: \(64, 3, 7, 7\) in the file, \(32, 3, 7, 7\) here"):
        load(resnet18(width=0.5), path)
    with pytest.raises(ValueError, match="gn has no batch norm weights"):
        load(resnet18(norm="gn"), path)
    save(path, state | {"layer3.7.conv1.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"1 unknown \(first: layer3.7.conv1.weight\)"):
        load(resnet18(), path)


def test_a_file_that_is_not_a_state_dict_is_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "resnet18.pth"
    with pytest.raises(ValueError, match="no such file; give a path, a URL, imagenet, null, or one of"):
        load(resnet18(), path)
    save(path, {"state_dict": state, "epoch": 3})
    with pytest.raises(ValueError, match="found a dict of state_dict, epoch; save the state dict only"):
        load(resnet18(), path)
    save(path, state)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="resnet18.pth is damaged or not a state dict"):
        load(resnet18(), path)
    save(path, state)
    with pytest.raises(ValueError, match=f"has sha256 [0-9a-f]{{64}}, expected {'0' * 64}"):
        load(resnet18(), path, "0" * 64)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save(resnet18(), tmp_path / "module.pth")  # a pickled module needs its class to load
    with pytest.raises(ValueError, match=r"damaged or not a state dict \(not only tensors\); give another file"):
        load(resnet18(), tmp_path / "module.pth")


def test_a_url_is_fetched_once_and_checked_each_time(state: dict[str, Tensor], tmp_path: Path, hub: Path) -> None:
    source = tmp_path / "model.pth"
    digest = save(source, state)
    with pytest.raises(ValueError, match="cannot download file:.*give backbone.weights=FILE"):
        load(resnet18(), source.as_uri(), "0" * 64)
    assert not list(hub.glob("*")), "a file with a wrong hash must be deleted"
    load(resnet18(), source.as_uri(), digest)
    (kept,) = hub.glob("*")
    source.unlink()
    load(resnet18(), source.as_uri(), digest)  # from the cache
    kept.write_bytes(b"changed")
    with pytest.raises(ValueError, match="delete the file and download it again"):
        load(resnet18(), source.as_uri(), digest)


def test_urls_of_one_file_name_do_not_share_a_cache_entry(state: dict[str, Tensor], tmp_path: Path, hub: Path) -> None:
    for folder, value in (("a", 1.0), ("b", 2.0)):
        (tmp_path / folder).mkdir()
        save(tmp_path / folder / "model.pth", state | {"bn1.weight": torch.full((64,), value)})
        backbone = resnet18()
        load(backbone, (tmp_path / folder / "model.pth").as_uri())
        assert torch.equal(backbone.state_dict()["bn1.weight"], torch.full((64,), value))
    assert len(list(hub.glob("*"))) == 2


def test_imagenet_without_a_network_names_the_remedy(monkeypatch: pytest.MonkeyPatch, hub: Path) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    message = r"cannot download https://.*resnet18-f37072fd.pth .*Put the file at .*weights=null"
    with pytest.raises(ValueError, match=message):
        load(resnet18(), "imagenet")


def test_imagenet_checks_the_hash_in_the_name(state: dict[str, Tensor], hub: Path) -> None:
    hub.mkdir(parents=True)
    save(hub / "resnet18-f37072fd.pth", state)  # random weights under the name of the trained ones
    with pytest.raises(ValueError, match="expected f37072fd"):
        load(resnet18(), "imagenet")


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_images_are_normalised_as_the_network_transforms_them(name: str) -> None:
    """torchvision's network changes images of the usual mean and deviation itself; the backbone's does not."""
    usual, found = schema.InputConfig(), torchvision_normalisation(name, "imagenet")
    assert found is not None
    image = torch.rand(1, 3, 4, 4)

    def normalised(mean: list[float], std: list[float]) -> Tensor:
        return (image - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    network = models.googlenet if name == "googlenet" else models.inception_v3
    theirs = network(weights=None, init_weights=False, aux_logits=False, num_classes=1)
    theirs.transform_input = True
    expected = theirs._transform_input(normalised(usual.mean, usual.std))
    torch.testing.assert_close(normalised(*found), expected)


def test_images_are_normalised_as_torchvisions_weights_expect() -> None:
    def mean(name: str, *words: str) -> list[float]:
        words = ("backbone=torchvision", f"backbone.name={name}", "head=rfcn", *words)
        return normalised_for_weights(load_config(words)).input.mean

    usual, imagenet = schema.InputConfig().mean, "backbone.weights=imagenet"
    file = models.EfficientNet_V2_L_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    assert mean("efficientnet_v2_l", imagenet) == [0.5, 0.5, 0.5]
    assert mean("efficientnet_v2_l", f"backbone.weights=folder/{file}") == [0.5, 0.5, 0.5]
    assert mean("efficientnet_v2_l", "backbone.weights=folder/mine.pth") == usual
    assert mean("efficientnet_v2_l", "backbone.weights=null") == usual
    assert mean("efficientnet_v2_l", imagenet, "input.mean=[0.1,0.2,0.3]") == [0.1, 0.2, 0.3]
    assert mean("inception_v3", imagenet) == [0.5, 0.5, 0.5]
    assert mean("efficientnet_v2_s", imagenet) == usual
    with pytest.raises(ValueError, match="no classifier 'resnet51'; nearest: .*resnet50"):
        mean("resnet51", imagenet)


MOBILENET = ("backbone=mobilenet_v2", "backbone.weights=null", "backbone.node=features.6")
CONVNEXT = ("backbone=torchvision", "backbone.name=convnext_tiny", "backbone.weights=null", "backbone.node=features.3")
RESNET = ("backbone=resnet18", "backbone.weights=null", "backbone.width=0.125")


@pytest.mark.parametrize(
    ("words", "freezes"),
    [
        (MOBILENET, "backbone.norm=gn"),
        ((*MOBILENET, "backbone.frozen_nodes=features.3"), "backbone.frozen_nodes=null backbone.norm=gn"),
        ((*MOBILENET, "backbone.norm=gn", "backbone.frozen_nodes=features.3"), "backbone.frozen_nodes=null"),
        ((*MOBILENET, "backbone.norm=gn", "backbone.frozen_stages=2"), None),  # a classifier has no stages
        (CONVNEXT, None),  # it has no batch norm
        ((*CONVNEXT, "backbone.frozen_nodes=features.1"), "backbone.frozen_nodes=null"),
        (RESNET, "backbone.frozen_stages=0 backbone.norm=gn"),
        ((*RESNET, "backbone.norm=bn"), "backbone.frozen_stages=0"),
        ((*RESNET, "backbone.norm=bn", "backbone.frozen_stages=0"), None),
        (("backbone=vgg16", "backbone.weights=null", "backbone.width=0.125"), "backbone.frozen_stages=0"),
    ],
)
def test_random_layers_that_are_frozen_are_refused_with_what_freezes_them(
    words: tuple[str, ...], freezes: str | None
) -> None:
    config = load_config([*words, "head=rfcn"])
    backbone = build_backbone(config)
    if freezes is None:
        load_backbone_weights(config.backbone, backbone)
        return
    with pytest.raises(ConfigError, match=f"would stay random: .*, or {freezes}$"):
        load_backbone_weights(config.backbone, backbone)
