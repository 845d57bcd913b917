"""timm's networks as backbones: the maps are timm's, steps train them, runs resume, and mistakes are named."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detector.backbones.norms import FrozenBatchNorm2d
from detector.backbones.timm import TimmBackbone, pretrained_normalisation, pretrained_state, timm_nodes
from detector.backbones.weights import load_classifier, load_classifier_weights
from detector.build import build_detector
from detector.configs import schema
from detector.configs.compose import load_config
from detector.configs.errors import ConfigError
from detector.engine.checkpoint import load_checkpoint
from detector.pipeline.training import normalised_for_weights
from detector.tools import cli
from tests.detector.backbones.test_pyramid import make_batch

NETWORKS = {  # name -> (nodes of the strides that it has, frozen module)
    "resnet10t": ({2: "act1", 4: "layer1", 8: "layer2", 16: "layer3", 32: "layer4"}, "layer1"),
    "efficientnet_b0": ({2: "blocks.0", 4: "blocks.1", 8: "blocks.2", 16: "blocks.4", 32: "blocks.6"}, "blocks.1"),
    "convnext_atto": ({4: "stages.0", 8: "stages.1", 16: "stages.2", 32: "stages.3"}, "stages.0"),
    "swin_tiny_patch4_window7_224": ({4: "layers.0", 8: "layers.1", 16: "layers.2", 32: "layers.3"}, "layers.0"),
    "vit_tiny_patch16_224": ({16: "blocks.11"}, "blocks.3"),
}
SWIN = "swin_tiny_patch4_window7_224"


@pytest.fixture
def timm() -> Any:
    return pytest.importorskip("timm", reason="the extra `timm` is not installed")


def backbone(**changes: Any) -> TimmBackbone:
    settings: dict[str, Any] = {
        "name": "resnet10t",
        "node": "layer3",
        "norm": "frozen_bn",
        "frozen_nodes": None,
        "tail": None,
        "tail_channels": 16,
        "pooled_size": 7,
    }
    return TimmBackbone(**(settings | changes))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_last_node_of_each_stride_is_found(name: str, timm: Any) -> None:
    assert timm_nodes(name) == NETWORKS[name][0]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("norm", ["frozen_bn", "bn"])
def test_maps_with_timms_weights_are_timms_maps(name: str, norm: str, timm: Any, tmp_path: Path) -> None:
    """Compare with `forward_intermediates`, another path through timm; it returns channels first."""
    torch.manual_seed(0)
    classifier = timm.create_model(name, **({"dynamic_img_size": True} if "patch" in name else {})).eval()
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.8, 1.5)  # type: ignore[arg-type]
    torch.save(classifier.state_dict(), tmp_path / "weights.pth")
    nodes = [node for stride, node in NETWORKS[name][0].items() if stride in (8, 16)]
    found = backbone(name=name, node=nodes[0], deeper_nodes=nodes[1:], joined_channels=None, norm=norm).eval()
    load_classifier_weights(found, str(tmp_path / "weights.pth"), architecture=name, sha256=None)
    images = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        expected = classifier.forward_intermediates(images, norm=False, intermediates_only=True)
        expected = {96 // item.shape[2]: item for item in expected}  # the last one of each stride
        maps = found(images).head
        assert len(maps) == len(nodes)
        for stride, item in zip(found.bottom_up_strides, maps, strict=True):
            largest = expected[stride].abs().max().item()
            torch.testing.assert_close(item, expected[stride], rtol=0, atol=1e-5 * largest)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_trains_one_step(name: str, timm: Any) -> None:
    torch.manual_seed(0)
    strides = NETWORKS[name][0]
    deeper = [f"backbone.deeper_nodes=[{strides[16]}]", f"backbone.node={strides[8]}"] if 8 in strides else []
    words = [
        "backbone=timm", f"backbone.name={name}", "backbone.norm=gn", "backbone.joined_channels=16", *deeper,
        f"backbone.frozen_nodes={NETWORKS[name][1]}", "head=rfcn", "head.channels=16", "head.k=3", "proposals=rpn",
        "proposals.channels=16",
    ]  # fmt: skip
    detector = build_detector(load_config(words), 3).train()
    detector(make_batch()).total().backward()
    for key, value in detector.named_parameters():
        assert (value.grad is not None) == value.requires_grad, key
    frozen = [key for key, value in detector.backbone.named_parameters() if not value.requires_grad]  # type: ignore[attr-defined]
    assert frozen
    assert all(not value.requires_grad for key, value in detector.named_parameters() if "patch_embed" in key)


@pytest.mark.parametrize("name", ["resnet10t", "efficientnet_b0", "convnext_atto"])
def test_a_network_is_a_pyramid(name: str, timm: Any) -> None:
    words = [
        "backbone=timm", f"backbone.name={name}", "backbone.norm=bn", "backbone.tail_channels=16", "neck=fpn",
        "neck.channels=16", "head=fast_rcnn_align", "proposals=rpn_fpn", "proposals.channels=16",
    ]  # fmt: skip
    detector = build_detector(load_config(words), 3).train()
    assert detector.backbone.strides == (4, 8, 16, 32)
    detector(make_batch()).total().backward()
    assert [key for key, value in detector.named_parameters() if value.requires_grad and value.grad is None] == []


@pytest.mark.parametrize("norm", ["frozen_bn", "bn", "gn"])
@pytest.mark.parametrize("name", ["resnet10t", "efficientnet_b0"])
def test_exactly_the_modules_after_the_frozen_one_learn(name: str, norm: str, timm: Any) -> None:
    nodes, last = NETWORKS[name]
    found = backbone(name=name, node=nodes[8], frozen_nodes=last, norm=norm).train()
    before = {key: value.clone() for key, value in found.state_dict().items()}
    found(torch.randn(2, 3, 64, 64)).head[0].square().mean().backward()
    trained = {key for key, value in found.named_parameters() if value.grad is not None}
    assert trained
    assert all(key.startswith(f"body.model.{nodes[8]}.") for key in trained)
    moved = {key for key, value in found.state_dict().items() if not torch.equal(value, before[key])}
    assert all(key.startswith(f"body.model.{nodes[8]}.") for key in moved)
    assert bool(moved) == (norm == "bn")
    kinds = {type(module) for path, module in found.named_modules() if path.startswith(f"body.model.{nodes[8]}.")}
    wanted = {"frozen_bn": FrozenBatchNorm2d, "bn": nn.BatchNorm2d, "gn": nn.GroupNorm}[norm]
    assert {kind for kind in kinds if "Norm" in kind.__name__} == {wanted}


def test_frozen_blocks_stay_in_evaluation(timm: Any) -> None:
    found = backbone(name="efficientnet_b0", node="blocks.2", frozen_nodes="blocks.1").train()
    assert not any(module.training for module in found.body.get_submodule("model.blocks.1").modules())
    assert found.body.get_submodule("model.blocks.2").training


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "resnet10"}, "timm has no network 'resnet10'; nearest: "),
        ({"name": "resnet10t.nobody"}, "timm has no weights 'resnet10t.nobody'; known: resnet10t."),
        ({"name": "hf-hub:timm/resnet18"}, "timm has no network 'hf-hub:timm/resnet18'"),
        ({"node": "layer9"}, "timm's resnet10t has no node 'layer9'; known: act1, layer1, layer2, layer3, layer4"),
        ({"deeper_nodes": ["layer2"]}, "increasing strides, got strides of 16, 8 at layer3, layer2"),
        ({"frozen_nodes": "layer4"}, "the used part of resnet10t has no module 'layer4'; nearest: layer"),
        ({"name": "mixer_s32_224", "node": "blocks.1"}, "timm's mixer_s32_224 gives no feature maps of images of any"),
        ({"tail": "native"}, "use tail=fc"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str, timm: Any) -> None:
    with pytest.raises(ValueError, match=message):
        backbone(**changes)


def test_a_pyramid_over_a_network_without_its_strides_is_refused(timm: Any) -> None:
    words = ["backbone=timm", "backbone.name=vit_tiny_patch16_224", "neck=fpn", "head=rfcn"]
    with pytest.raises(ConfigError, match=r"has maps of one stride \(16\), so no pyramid can be made; set neck=none"):
        build_detector(load_config(words), 3)


def test_a_native_tail_is_refused() -> None:
    with pytest.raises(ConfigError, match="backbone=timm has no such tail"):
        load_config(["backbone=timm", "backbone.tail=native"])


def test_without_timm_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"backbone=timm needs timm: pip install 'fast-rfcn\[timm\]'"):
        build_detector(load_config(["backbone=timm", "backbone.name=never_asked_before"]), 3)


def test_pretrained_weights_come_from_the_cache(timm: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("DETECTOR_OFFLINE", "1")
    path = tmp_path / "hub/checkpoints/timm-resnet10t.c3_in1k-model.safetensors"
    with pytest.raises(ValueError, match="timm's weights of resnet10t cannot be loaded") as caught:
        pretrained_state("resnet10t")
    message = str(caught.value)
    assert "\n" not in message
    assert "https://huggingface.co/timm/resnet10t.c3_in1k/resolve/main/model.safetensors" in message
    assert str(path) in message
    assert "backbone.weights=FILE" in message
    state = timm.create_model("resnet10t").state_dict()
    path.parent.mkdir(parents=True)
    save_file(state, path)
    found = pretrained_state("resnet10t")
    assert found.keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in found.items())
    path.write_bytes(b"not a file of weights")
    with pytest.raises(ValueError, match="timm's weights of resnet10t cannot be loaded"):
        pretrained_state("resnet10t")


def test_a_file_of_another_network_is_refused(timm: Any) -> None:
    state = timm.create_model("resnet10t").state_dict()
    with pytest.raises(ValueError, match="weights.pth does not fit efficientnet_b0: .* missing"):
        load_classifier(
            backbone(name="efficientnet_b0", node="blocks.2"), state, "weights.pth", architecture="efficientnet_b0"
        )


def test_images_are_normalised_as_the_weights_expect(timm: Any) -> None:
    def mean(*words: str) -> list[float]:
        return normalised_for_weights(load_config(["backbone=timm", "head=rfcn", *words])).input.mean

    usual = schema.InputConfig().mean
    vit = "backbone.name=vit_tiny_patch16_224"
    assert pretrained_normalisation("vit_tiny_patch16_224") == ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
    assert mean(vit) == [0.5, 0.5, 0.5]
    assert mean("backbone.name=resnet10t") == usual
    assert mean(vit, "input.mean=[0.1,0.2,0.3]") == [0.1, 0.2, 0.3]
    assert mean(vit, "backbone.weights=null") == usual
    plain = load_config(["backbone=resnet18"])
    assert normalised_for_weights(plain) is plain


def test_2n_steps_equal_n_steps_and_n_resumed_steps(timm: Any, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    words = [
        "train", "experiment=demo", "dataset.train=4", "dataset.test=1", "dataset.height=48", "dataset.width=64",
        "input.short_sides=[48]", "input.test_short_side=48", "backbone=timm", "backbone.name=efficientnet_b0",
        "backbone.weights=null", "backbone.norm=bn", "backbone.node=blocks.2", "backbone.tail_channels=16",
        "trainer.max_steps=4", "trainer.checkpoint_every=2", "trainer.keep_every=2", "trainer.images_per_step=2",
        "trainer.workers=0", "trainer.device=cpu", "trainer.eval_images=0", "trainer.ema_decay=0.9",
    ]  # fmt: skip
    assert cli.run([*words, f"output_dir={whole}"]) == 0
    (parts / "checkpoints").mkdir(parents=True)
    shutil.copy(whole / "checkpoints" / "step_0000002.pt", parts / "checkpoints" / "last.pt")
    assert cli.run(["train", f"resume={parts}"]) == 0
    one, other = (load_checkpoint(folder) for folder in (whole, parts))
    assert one["step"] == other["step"] == 4
    for part in ("model", "average"):
        assert one[part].keys() == other[part].keys()
        assert all(torch.equal(value, other[part][key]) for key, value in one[part].items())
