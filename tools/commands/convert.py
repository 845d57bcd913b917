"""`detector convert`: convert released weights of other programs to a portable model, or to a backbone's classifier."""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detector.build import build_detector
from detector.configs.compose import load_config
from detector.configs.errors import ConfigError
from detector.convert import caffe, detectron2, torchvision
from detector.convert.array_pickles import read_array_pickle
from detector.convert.caffe_files import read_caffemodel
from detector.datasets.voc import VOC_CLASSES
from detector.engine.checkpoint import load_weights, write_atomically
from detector.export.portable import write_portable
from detector.export.safetensors import looks_like_safetensors, read_safetensors, write_safetensors
from detector.fetch import file_hash
from detector.model import Detector
from detector.pipeline.models import SavedModel
from detector.proposals.rpn import RPN
from detector.tools.commands.export import portable_model

log = logging.getLogger("detector")

HELP = """\
usage: detector convert source=FILE output=FILE.safetensors [classes=[NAMES] or FILE] [key=value ...]

source is a .caffemodel (Fast R-CNN or Faster R-CNN with VGG16, R-FCN with a ResNet, or their classifiers), a .pth or
.pkl of Detectron2's R50-C4 (R101-C4 too), or a state dict of torchvision's FasterRCNN ResNet-50-FPN or of one of its
classifiers. Detectors become a portable model for weights=, classifiers a file for backbone.weights=. More settings
set values that the source does not contain, for example proposals=grid or head.k=3. Details: docs/models.md.
"""

BGR = ["input.bgr_255=true", "input.std=[1.0,1.0,1.0]"]  # the mean is subtracted, nothing is divided
CAFFE = [*BGR, "input.mean=[102.9801,115.9465,122.7717]"]
DETECTRON2 = [
    *BGR,
    "input.mean=[103.53,116.28,123.675]",
    "input.test_short_side=800",
    "input.max_side=1333",
    "head=fast_rcnn_align",
    "head.output_size=14",
    "proposals=rpn",
    "proposals.scales=[2.0,4.0,8.0,16.0,32.0]",
    "proposals.top_k_test=1000",
    "proposals.min_size=0.0",
    "postprocess.nms_iou=0.5",
]
TORCHVISION = [
    "input.test_short_side=800",
    "input.max_side=1333",
    "input.round_down=true",
    "backbone.tail=fc",
    "neck=fpn",
    "proposals=rpn_fpn",
    "proposals.anchors=corner",
    "head=fast_rcnn_align",
    "head.aligned=false",
    "postprocess.nms_iou=0.5",
]


@dataclass(frozen=True, slots=True)
class Source:
    """A detector read from a file."""

    origin: str
    num_classes: int
    settings: list[str]  # the settings that follow from the file and its origin
    backbone: dict[str, Tensor]  # under torchvision's names
    head: Callable[[Detector], dict[str, Tensor]]  # head and proposal network, under the names of the built detector
    delta_std: tuple[float, float, float, float]  # the standard deviations that normalize its box deltas
    fixed: tuple[str, ...] = ()  # groups of the configuration that the file decides


def run_convert(source: Path, output: Path, classes: str | None, overrides: Sequence[str]) -> None:
    """Convert the weights in `source` and write them to `output`.

    Raises ConfigError for wrong settings, ValueError for files that do not fit.
    """
    if not source.is_file():
        raise ValueError(f"source={source}: no such file; give the path of the released weights")
    if source.suffix == ".caffemodel":
        layers = read_caffemodel(source)
        if "cls_score" not in layers and "rfcn_cls" not in layers:
            write_classifier(output, caffe.classifier_state(layers), "caffe")
            return
        found = caffe_source(layers)
    else:
        weights = read_state(source)
        if detectron2.is_c4(weights):
            found = detectron2_source(weights)
        elif torchvision.is_fpn(weights):
            found = torchvision_source(weights)
        else:
            write_classifier(output, torchvision_state(weights, source), "torchvision")
            return
    for word in overrides:
        if word.partition("=")[0] in found.fixed:
            raise ConfigError(f"{word} does not fit: {source} is a {found.origin}, which decides this; leave it out")
    names = class_names(classes, found.num_classes)
    config = load_config(["backbone.weights=null", *found.settings, *overrides])
    detector = build_detector(config, len(names)).eval()
    load_source(detector, found, str(source))
    provenance = {"step": 0, "source": source.name, "sha256": file_hash(source, "sha256"), "origin": found.origin}
    write_portable(output, portable_model(detector, config, SavedModel({}, names, {}, provenance)))
    log.info("%s: %s with %d classes, for weights=", output, found.origin, len(names))


def caffe_source(layers: caffe.Layers) -> Source:
    """Read a detector's .caffemodel. Its deltas are not normalized: the weights contain the standard deviations."""
    settings = [*CAFFE, f"head.class_agnostic={str(caffe.class_agnostic(layers)).lower()}"]
    if "rpn_cls_score" in layers:
        settings += ["proposals=rpn", f"proposals.channels={len(layers['rpn_bbox_pred'][0][0])}"]
    if "rfcn_cls" in layers:
        k = round(caffe.k_squared(layers) ** 0.5)
        settings += ["head=rfcn", f"head.k={k}", f"head.channels={len(layers['conv_new_1'][0])}"]
    if "conv1_1" in layers:
        settings.append("backbone=vgg16")
    else:
        settings += [f"backbone=resnet{caffe.resnet_depth(layers)}", "backbone.stride_in_1x1=true"]

    def head(detector: Detector) -> dict[str, Tensor]:
        anchors = detector.proposals.bases.shape[1] if isinstance(detector.proposals, RPN) else None
        return caffe.detector_state(layers, num_anchors=anchors)

    return Source(
        origin=f"Caffe {'R-FCN' if 'rfcn_cls' in layers else 'Fast R-CNN'}",
        num_classes=caffe.num_classes(layers),
        settings=settings,
        backbone=caffe.classifier_state(layers),
        head=head,
        delta_std=(1.0, 1.0, 1.0, 1.0),
    )


def detectron2_source(weights: Mapping[str, Tensor]) -> Source:
    """Read a Detectron2 C4 checkpoint. Its deltas must be divided by (10, 10, 5, 5)."""
    backbone = detectron2.backbone_state(weights)
    depth = {6: 50, 23: 101}.get(sum(1 for name in backbone if re.fullmatch(r"layer3\.\d+\.conv1\.weight", name)))
    if depth is None:
        raise ValueError("expected the blocks of a ResNet-50 or 101 in res4 of this file")
    num_classes = len(weights[f"{detectron2.SCORES}.bias"]) - 1
    agnostic = len(weights[f"{detectron2.BOXES}.bias"]) == 4 and num_classes > 1

    def head(detector: Detector) -> dict[str, Tensor]:
        assert isinstance(detector.proposals, RPN)
        return detectron2.detector_state(weights, detector.proposals.bases[0])

    return Source(
        origin=f"Detectron2 R{depth}-C4",
        num_classes=num_classes,
        settings=[
            *DETECTRON2,
            f"backbone=resnet{depth}",
            "backbone.stride_in_1x1=true",
            f"proposals.channels={len(weights[f'{detectron2.RPN}.conv.bias'])}",
            f"head.class_agnostic={str(agnostic).lower()}",
        ],
        backbone=backbone,
        head=head,
        delta_std=(0.1, 0.1, 0.2, 0.2),
        fixed=("backbone", "proposals"),
    )


def torchvision_source(weights: Mapping[str, Tensor]) -> Source:
    """Read the state dict of torchvision's FasterRCNN with a pyramid. It normalizes deltas like Detectron2."""
    return Source(
        origin=f"torchvision FasterRCNN ResNet-{torchvision.depth(weights)}-FPN",
        num_classes=len(weights[f"{torchvision.SCORES}.bias"]) - 1,
        settings=[
            f"backbone=resnet{torchvision.depth(weights)}",
            *TORCHVISION,
            f"neck.channels={len(weights[f'{torchvision.LATERAL}.0.0.bias'])}",
            f"proposals.channels={len(weights[f'{torchvision.RPN}.conv.0.0.bias'])}",
            f"backbone.tail_channels={len(weights[f'{torchvision.FC}6.bias'])}",
        ],
        backbone=torchvision.backbone_state(weights),
        head=lambda detector: torchvision.detector_state(weights),
        delta_std=(0.1, 0.1, 0.2, 0.2),
        fixed=("backbone", "neck", "proposals", "head"),
    )


def load_source(detector: Detector, found: Source, source: str) -> None:
    """Load the weights of `found`. Raises ValueError that lists missing and unknown names and different shapes."""
    known = detector.state_dict()
    state = found.head(detector)
    for name, value in found.backbone.items():
        place = f"backbone.{detector.backbone.rename(name)}"  # type: ignore[attr-defined]
        if place in known:  # not so for a classifier's last layer, nor for its tail in an R-FCN
            state[place] = value
    state["coder.mean"] = torch.zeros_like(detector.coder.mean)
    state["coder.std"] = state["coder.mean"] + torch.tensor(found.delta_std)
    load_weights(detector, state, source)


def class_names(classes: str | None, count: int) -> tuple[str, ...]:
    """Return the class names from [a,b,c] or from a file with one name a line; without `classes`, VOC's 20 names.

    Raises ConfigError if there are not `count` different names.
    """
    if classes is None:
        if count == len(VOC_CLASSES):
            return tuple(VOC_CLASSES)
        raise ConfigError(f"the file has {count} classes without names; give classes=[a,b,...] or classes=FILE")
    if classes.startswith("["):
        names = tuple(name.strip() for name in classes.strip("[]").split(","))
    elif not Path(classes).is_file():
        raise ConfigError(f"classes={classes}: no such file; give [a,b,...] or a file with one name a line")
    else:
        names = tuple(line.strip() for line in Path(classes).read_text().splitlines() if line.strip())
    if len(names) != count or len(set(names)) != count:
        raise ConfigError(f"classes has {len(set(names))} names; the file has {count} classes")
    return names


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a .pth, .pkl or .safetensors file. No code in the file is executed."""
    content: Any
    try:
        if looks_like_safetensors(path):
            return read_safetensors(path)[0]
        if path.suffix == ".pkl":
            content = read_array_pickle(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load may raise any error for a damaged file
        reason = str(error).splitlines()[0].removeprefix(f"{path}: ") if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):
            reason = "it contains more than tensors and plain values"
        raise ValueError(
            f"{path} cannot be read ({reason}); if you trust the file, save only its state dict, with the program "
            "that wrote it: torch.save(model.state_dict(), PATH)"
        ) from error
    content = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not any(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path}: expected a dict of named tensors, got {type(content).__name__}; give a state dict")
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def torchvision_state(weights: dict[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Return the state dict if it has a classifier's names. Raises ValueError if not."""
    if "conv1.weight" in weights or any(name.startswith("features.") for name in weights):
        return weights
    if any(name.startswith(("backbone.body.", "backbone.features.", "roi_heads.")) for name in weights):
        raise ValueError(
            f"{source}: a detector of torchvision, but not its FasterRCNN with a ResNet and FPN (version 1), the only "
            "one that can be converted; its version 2, MobileNetV3 and RetinaNet cannot"
        )
    raise ValueError(
        f"{source}: expected tensor names of Detectron2's R50-C4, of torchvision's FasterRCNN or of a torchvision "
        f"classifier, got {', '.join(list(weights)[:3])}; detector convert --help lists the models"
    )


def write_classifier(path: Path, state: Mapping[str, Tensor], origin: str) -> None:
    """Write a classifier's state dict as safetensors, for `backbone.weights`."""
    tensors = {name: value.detach().float() if value.is_floating_point() else value for name, value in state.items()}
    write_atomically(path, lambda file: write_safetensors(file, tensors, {"origin": origin}))
    hint = "; use input.bgr_255=true and Caffe's mean, see docs/models.md" if origin == "caffe" else ""
    log.info("%s: %d tensors of a classifier; use backbone.weights=%s%s", path, len(tensors), path, hint)
