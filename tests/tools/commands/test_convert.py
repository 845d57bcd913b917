"""`detector convert`: files with the published names give the detections of the original network."""

import importlib.util
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from detector import load_detector
from detector.build import build_detector
from detector.configs.compose import load_config, override_config
from detector.convert import detectron2
from detector.convert.caffe import classifier_state
from detector.export.portable import read_portable
from detector.model import Detector
from detector.ops import boxes as box_ops
from detector.pipeline.models import load_model, read_model_config
from detector.pipeline.predictor import make_batch
from detector.tools.cli import run

WRITER = Path(__file__).parents[2] / "detector" / "convert" / "caffe_writer.py"
_spec = importlib.util.spec_from_file_location("caffe_writer", WRITER)
assert _spec is not None
assert _spec.loader is not None
_writer = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_writer)
caffemodel = _writer.caffemodel

NARROW = ["backbone.width=0.125", "input.test_short_side=64", "postprocess.score_threshold=0.03", "trainer.device=cpu"]
CAFFE = [
    "backbone.weights=null",
    "input.bgr_255=true",
    "input.mean=[102.9801,115.9465,122.7717]",
    "input.std=[1.0,1.0,1.0]",
    *NARROW,
]
PICTURE = torch.randint(0, 256, (3, 64, 80), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)


def randomised(*words: str, num_classes: int) -> Detector:
    """Return a detector with random weights and statistics, and box targets with mean 0 and deviation 1."""
    torch.manual_seed(0)
    detector = build_detector(load_config(["dataset=voc", *words]), num_classes).eval()
    for name, value in detector.state_dict().items():
        if name.endswith(("running_var", "bn1.weight", "bn2.weight", "downsample.1.weight")):
            value.uniform_(0.7, 1.3)
        elif name.endswith(("bias", "running_mean", "bn3.weight")):
            value.uniform_(-0.2, 0.2)
    detector.coder.mean.zero_()
    detector.coder.std.fill_(1)
    return detector


def layer(module: nn.Module) -> list[Tensor]:
    return [module.weight.detach(), module.bias.detach()]  # type: ignore[list-item]


def with_background(module: nn.Module, rows: int) -> list[Tensor]:
    """Return the box outputs with extra rows of noise for the background."""
    return [torch.cat((torch.randn_like(item[:rows]), item)) for item in layer(module)]


def caffe_norm(norm: nn.Module, place: str, bias: Tensor | float = 0.0) -> dict[str, list[Tensor]]:
    """Return Caffe's BatchNorm, with sums over 3 steps, and Scale."""
    state = norm.state_dict()
    sums = [(state["running_mean"] + bias) * 3, state["running_var"] * 3, torch.tensor([3.0])]
    return {f"bn{place}": sums, f"scale{place}": [state["weight"], state["bias"]]}


def caffe_resnet(network: nn.Module) -> dict[str, list[Tensor]]:
    """Name layers as KaimingHe/deep-residual-networks: res2a_branch1, res2a_branch2a, ... conv1 has a bias."""
    bias = torch.full_like(network.bn1.running_mean, 0.25)  # type: ignore[union-attr, arg-type]
    found = {"conv1": [network.conv1.weight.detach(), bias]}  # type: ignore[union-attr]
    found |= caffe_norm(network.bn1, "_conv1", bias)  # type: ignore[arg-type]
    for stage in (2, 3, 4, 5):
        for index, block in enumerate(getattr(network, f"layer{stage - 1}")):
            parts = [("2a", block.conv1, block.bn1), ("2b", block.conv2, block.bn2), ("2c", block.conv3, block.bn3)]
            if block.downsample is not None:
                parts.append(("1", *block.downsample))
            for branch, conv, norm in parts:
                name = f"{stage}{'abcdef'[index]}_branch{branch}"
                found |= {f"res{name}": [conv.weight.detach()]} | caffe_norm(norm, name)
    return found


def caffe_rpn(rpn: nn.Module) -> dict[str, list[Tensor]]:
    """Return the RPN with all background scores before all object scores."""
    anchors = rpn.bases.shape[1]  # type: ignore[arg-type]
    order = [2 * anchor + kind for kind in (0, 1) for anchor in range(anchors)]
    return {
        "rpn_conv/3x3": layer(rpn.conv),  # type: ignore[arg-type]
        "rpn_cls_score": [item[order] for item in layer(rpn.scores)],  # type: ignore[arg-type]
        "rpn_bbox_pred": layer(rpn.deltas),  # type: ignore[arg-type]
    }


def convert(path: Path, *words: str) -> Path:
    output = path.with_suffix(".safetensors")
    assert run(["convert", f"source={path}", f"output={output}", *words]) == 0
    return output


def require_same(output: Path, detector: Detector, boxes: list[Tensor] | None) -> None:
    """Require that the file gives the detections of the detector."""
    batch = make_batch([PICTURE], [None] if boxes is None else list(boxes), 64)
    expected = detector.detect(batch)[0]
    assert len(expected) > 5
    found = load_detector(output, device="cpu").detect([PICTURE], boxes)[0]
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.boxes, expected.boxes, atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("v1", [False, True])
def test_a_caffe_fast_rcnn_is_converted(tmp_path: Path, v1: bool) -> None:
    detector = randomised(*CAFFE, "backbone=vgg16", "proposals=grid", num_classes=20)
    convolutions = [item for item in detector.backbone.features if isinstance(item, nn.Conv2d)]  # type: ignore[attr-defined]
    names = [
        f"conv{stage}_{number}" for stage, count in enumerate((2, 2, 3, 3, 3), 1) for number in range(1, count + 1)
    ]
    layers = {name: layer(item) for name, item in zip(names, convolutions, strict=True)}
    tail = detector.head.tail  # type: ignore[attr-defined]
    layers |= {"fc6": layer(tail[1]), "fc7": layer(tail[4]), "cls_score": layer(detector.head.scores)}  # type: ignore[attr-defined]
    layers["bbox_pred"] = with_background(detector.head.deltas, 4)  # type: ignore[attr-defined]
    (tmp_path / "vgg16.caffemodel").write_bytes(caffemodel(layers, v1=v1))
    output = convert(tmp_path / "vgg16.caffemodel", "proposals=grid", *NARROW)
    model = read_portable(output)
    assert model.classes[:2] == ("aeroplane", "bicycle")
    assert model.preprocessing["channels"] == "BGR"
    assert model.provenance["origin"] == "Caffe Fast R-CNN"
    boxes = torch.tensor([[0.0, 0, 40, 40], [10, 20, 70, 60], [30, 5, 79, 63]])
    require_same(output, detector, [boxes])


@pytest.mark.parametrize("class_agnostic", [True, False])
def test_a_caffe_rfcn_is_converted(tmp_path: Path, class_agnostic: bool) -> None:
    head = ["head=rfcn", "head.k=3", "head.channels=16", f"head.class_agnostic={class_agnostic}"]
    words = [
        *CAFFE,
        "backbone=resnet50",
        "backbone.stride_in_1x1=true",
        *head,
        "proposals=rpn",
        "proposals.channels=16",
    ]
    detector = randomised(*words, num_classes=3)
    head_layers: Any = detector.head
    layers = caffe_resnet(detector.backbone) | caffe_rpn(detector.proposals)  # type: ignore[arg-type]
    layers |= {"conv_new_1": layer(head_layers.reduce), "rfcn_cls": layer(head_layers.score_maps)}
    layers["rfcn_bbox"] = with_background(head_layers.box_maps, 4 * 9)
    (tmp_path / "rfcn.caffemodel").write_bytes(caffemodel(layers))
    output = convert(tmp_path / "rfcn.caffemodel", "classes=[a,b,c]", *NARROW)
    config = read_portable(output).config
    assert (config["head"]["k"], config["head"]["class_agnostic"]) == (3, class_agnostic)
    assert config["backbone"]["stride_in_1x1"] is True
    require_same(output, detector, None)


def test_the_layer_names_of_deeper_resnets_are_known() -> None:
    """res4a, res4b1, ..., res4b22 of ResNet-101 are blocks 0 to 22."""
    blocks = {2: "a b c", 3: "a b1 b2 b3", 4: " ".join(["a", *(f"b{i}" for i in range(1, 23))]), 5: "a b c"}
    one = torch.ones(1)
    layers: dict[str, list[Tensor]] = {}
    for stage, names in blocks.items():
        for index, name in enumerate(names.split()):
            for branch in ("2a", "2b", "2c"):
                place = f"{stage}{name}_branch{branch}"
                layers |= {f"res{place}": [one * index], f"bn{place}": [one, one, one], f"scale{place}": [one, one]}
    state = classifier_state(layers)
    assert float(state["layer3.22.conv1.weight"]) == 22
    assert float(state["layer2.3.conv3.weight"]) == 3
    expected = {key for key in models.resnet101().state_dict() if "conv" in key and key.startswith("layer")}
    assert {key for key in state if "conv" in key} == expected
    with pytest.raises(ValueError, match="expected a VGG16 or a ResNet"):
        classifier_state({"conv1": [one]})


def test_a_caffe_classifier_is_converted_to_backbone_weights(tmp_path: Path) -> None:
    words = ["backbone=resnet50", "backbone.width=0.125", "backbone.stride_in_1x1=true", "head=rfcn", "proposals=grid"]
    detector = randomised(*words, num_classes=2)
    layers = caffe_resnet(detector.backbone) | {"fc1000": [torch.ones(1000, 256), torch.ones(1000)]}  # type: ignore[arg-type]
    (tmp_path / "ResNet-50.caffemodel").write_bytes(caffemodel(layers, v1=True))
    output = convert(tmp_path / "ResNet-50.caffemodel")
    from detector.build import load_backbone_weights

    config = load_config(["dataset=voc", *words, f"backbone.weights={output}"])
    again = build_detector(config, 2)
    load_backbone_weights(config.backbone, again.backbone)
    for name, value in detector.backbone.state_dict().items():  # type: ignore[attr-defined]
        torch.testing.assert_close(again.backbone.state_dict()[name], value, msg=name)  # type: ignore[attr-defined]


def test_a_torchvision_classifier_is_converted(tmp_path: Path) -> None:
    state = models.resnet18().state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    output = convert(tmp_path / "resnet18.pth")
    from detector.backbones.weights import load_classifier_weights

    backbone = build_detector(load_config(["dataset=voc", "backbone=resnet18", "proposals=grid"]), 2).backbone
    load_classifier_weights(backbone, str(output), architecture="resnet18", sha256=None)  # type: ignore[arg-type]
    assert torch.equal(backbone.conv1.weight, state["conv1.weight"])  # type: ignore[attr-defined]


DETECTRON2 = [*CAFFE, "backbone=resnet50", "backbone.stride_in_1x1=true", "head=fast_rcnn_align", "head.output_size=14"]
DETECTRON2 += ["proposals=rpn", "proposals.scales=[2,4,8,16,32]", "proposals.channels=16", "postprocess.nms_iou=0.5"]
DETECTRON2 += ["input.mean=[103.53,116.28,123.675]", "proposals.top_k_test=1000", "proposals.min_size=0.0"]


def detectron2_file(detector: Detector, generator: torch.Generator) -> dict[str, Tensor]:
    """Return backbone and head of the detector under Detectron2's names, and a random proposal network."""

    def old_name(name: str) -> str | None:
        parts = name.split(".")
        if parts[0] in ("conv1", "bn1"):
            return f"backbone.stem.conv1.{'norm.' if parts[0] == 'bn1' else ''}{parts[1]}"
        if parts[0] == "tail":
            stage, parts = "roi_heads.res5", parts[2:]
        elif parts[0].startswith("layer"):
            stage, parts = f"backbone.res{int(parts[0][-1]) + 1}", parts[1:]
        else:
            return None
        block, place, *rest = parts
        if place == "downsample":
            return f"{stage}.{block}.shortcut.{'norm.' if rest[0] == '1' else ''}{rest[1]}"
        return f"{stage}.{block}.{place.replace('bn', 'conv')}.{'norm.' if place.startswith('bn') else ''}{rest[0]}"

    found = {old_name(name): value for name, value in detector.backbone.state_dict().items()}  # type: ignore[attr-defined]
    head: Any = detector.head
    for kind in ("weight", "bias"):
        scores, deltas = getattr(head.scores, kind).detach(), getattr(head.deltas, kind).detach()
        found[f"{detectron2.SCORES}.{kind}"] = torch.cat((scores[1:], scores[:1]))
        found[f"{detectron2.BOXES}.{kind}"] = deltas * (10 if kind == "weight" else 1)
    rpn: Any = detector.proposals
    for name, channels in (("conv", 16), ("objectness_logits", 15), ("anchor_deltas", 60)):
        shape = rpn.conv.weight.shape if name == "conv" else (channels, 16, 1, 1)
        found[f"{detectron2.RPN}.{name}.weight"] = 0.1 * torch.randn(shape, generator=generator)
        found[f"{detectron2.RPN}.{name}.bias"] = 0.1 * torch.randn(channels, generator=generator)
    return {name: value for name, value in found.items() if name is not None}


def as_pth(path: Path, weights: dict[str, Tensor]) -> None:
    torch.save({"model": weights, "iteration": 3}, path)


def as_pkl(path: Path, weights: dict[str, Tensor]) -> None:
    content = {"model": {name: value.numpy() for name, value in weights.items()}, "__author__": "x"}
    path.write_bytes(pickle.dumps(content, protocol=4))


@pytest.mark.parametrize(("name", "write"), [("r50.pth", as_pth), ("r50.pkl", as_pkl)])
def test_a_detectron2_model_is_converted(
    tmp_path: Path, name: str, write: Callable[[Path, dict[str, Tensor]], None]
) -> None:
    original = randomised(*DETECTRON2, num_classes=3)
    weights = detectron2_file(original, torch.Generator().manual_seed(1))
    write(tmp_path / name, weights)
    output = convert(tmp_path / name, "classes=[a,b,c]", *NARROW)
    config = read_portable(output).config
    assert (config["input"]["max_side"], config["proposals"]["top_k_test"]) == (1333, 1000)
    model = load_model(output, override_config(read_model_config(output), []), torch.device("cpu"))
    found: Any = model.detector
    for key, value in original.backbone.state_dict().items():  # type: ignore[attr-defined]
        assert torch.equal(found.backbone.state_dict()[key], value), key
    expected: Any = original.head
    torch.testing.assert_close(found.head.scores.weight, expected.scores.weight)
    torch.testing.assert_close(found.head.scores.bias, expected.scores.bias)
    std = torch.tensor([0.1, 0.1, 0.2, 0.2]).repeat(3)  # Detectron2 divides by (10, 10, 5, 5)
    torch.testing.assert_close(found.head.deltas.weight, expected.deltas.weight * 10 * std[:, None])
    torch.testing.assert_close(found.head.deltas.bias, expected.deltas.bias * std)
    require_same_proposals(found.proposals, weights)


def require_same_proposals(rpn: Any, weights: dict[str, Tensor]) -> None:
    """Compare scores and boxes of a small map with Detectron2's, computed anchor by anchor."""
    hidden = torch.randn(1, 16, 3, 4, generator=torch.Generator().manual_seed(2))

    def outputs(name: str) -> Tensor:
        layer = f"{detectron2.RPN}.{name}"
        maps = nn.functional.conv2d(hidden, weights[f"{layer}.weight"], weights[f"{layer}.bias"])
        return maps[0].permute(1, 2, 0)  # [H, W, C]

    logits, deltas = outputs("objectness_logits"), outputs("anchor_deltas")
    theirs = []
    for y in range(3):
        for x in range(4):
            for index, (size, aspect) in enumerate((s, a) for s in (32, 64, 128, 256, 512) for a in (0.5, 1.0, 2.0)):
                width, height = (size * size / aspect) ** 0.5, (size * size / aspect) ** 0.5 * aspect
                anchor = torch.tensor(
                    [16 * x - width / 2, 16 * y - height / 2, 16 * x + width / 2, 16 * y + height / 2]
                )
                box = box_ops.decode(deltas[y, x, 4 * index : 4 * index + 4], anchor)
                theirs.append([float(logits[y, x, index]), *box.tolist()])
    scores = rpn.scores(hidden)[0].unflatten(0, (-1, 2)).permute(2, 3, 0, 1).reshape(-1, 2)
    regressed = rpn.deltas(hidden)[0].unflatten(0, (-1, 4)).permute(2, 3, 0, 1).reshape(-1, 4)
    shift = torch.tensor([[16 * x, 16 * y, 16 * x, 16 * y] for y in range(3) for x in range(4)])
    anchors = (shift[:, None] + rpn.bases[0]).reshape(-1, 4)
    ours = torch.cat(((scores[:, 1] - scores[:, 0])[:, None], box_ops.decode(regressed, anchors)), dim=1)
    expected = torch.tensor(theirs)
    torch.testing.assert_close(ours[ours[:, 0].argsort()], expected[expected[:, 0].argsort()], atol=5e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "content", "words", "code", "message"),
    [
        ("none.pth", None, [], 1, "no such file"),
        ("a.caffemodel", b"\xff" * 30, [], 1, "is damaged or not a .caffemodel"),
        ("a.pth", b"junk", [], 1, "cannot be read"),
        ("a.pth", {"x": torch.zeros(1)}, [], 1, "expected tensor names of Detectron2's R50-C4"),
        ("a.pth", {"backbone.body.conv1.weight": torch.zeros(1)}, [], 1, "its version 2, MobileNetV3 and RetinaNet"),
        ("a.pth", {"x": 1}, [], 1, "expected a dict of named tensors"),
        ("a.pth", nn.Linear(1, 1), [], 1, "it contains more than tensors and plain values"),
        ("a.pkl", pickle.dumps({"model": Path("x")}), [], 1, "which could run code"),
    ],
)
def test_files_that_cannot_be_converted_are_refused(
    tmp_path: Path,
    name: str,
    content: object,
    words: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / name)
    assert run(["convert", f"source={tmp_path / name}", f"output={tmp_path / 'o'}", *words]) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "o").exists()


def test_words_and_class_names_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", "--help"]) == 0
    assert "usage: detector convert" in capsys.readouterr().out
    assert run(["convert", "source=x"]) == 2
    assert "convert needs source=FILE and output=FILE" in capsys.readouterr().err
    original = randomised(*DETECTRON2, num_classes=3)
    as_pth(tmp_path / "r50.pth", detectron2_file(original, torch.Generator().manual_seed(1)))
    words = ["convert", f"source={tmp_path / 'r50.pth'}", f"output={tmp_path / 'o'}", *NARROW]
    assert run(words) == 2
    assert "the file has 3 classes without names" in capsys.readouterr().err
    assert run([*words, "classes=[a,b]"]) == 2
    assert "classes has 2 names; the file has 3 classes" in capsys.readouterr().err
    assert run([*words, "classes=none.txt"]) == 2
    assert "classes=none.txt: no such file" in capsys.readouterr().err
    assert run([*words, "classes=[a,b,c]", "proposals=grid"]) == 2
    assert "proposals=grid does not fit" in capsys.readouterr().err
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    assert run([*words, f"classes={tmp_path / 'names.txt'}"]) == 0
