"""`detector convert`: released weights of other programs as a portable model, or as a classifier's for a backbone."""

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
change what the source does not tell, for example proposals=grid or head.k=3. Details: docs/models.md.
"""

BGR = ["input.bgr_255=true", "input.std=[1.0,1.0,1.0]"]  # mean subtracted, nothing divided
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
    """A detector that was found in a file."""

    origin: str
    num_classes: int
    settings: list[str]  # what the file and its origin tell of the config
    backbone: dict[str, Tensor]  # torchvision's names
    head: Callable[[Detector], dict[str, Tensor]]  # head and proposal network, under the names of the detector built
    deviations: tuple[float, float, float, float]  # the units of its box deltas


def run_convert(source: Path, output: Path, classes: str | None, overrides: Sequence[str]) -> None:
    """Writes what is in `source` to `output`.

    Raises ConfigError for settings that cannot work, ValueError for files that do not fit.
    """
    if not source.is_file():
        raise ValueError(f"source={source}: no such file")
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
    names = class_names(classes, found.num_classes)
    config = load_config(["backbone.weights=null", *found.settings, *overrides])
    detector = build_detector(config, len(names)).eval()
    fill(detector, found, str(source))
    provenance = {"step": 0, "source": source.name, "sha256": file_hash(source, "sha256"), "origin": found.origin}
    write_portable(output, portable_model(detector, config, SavedModel({}, names, {}, provenance)))
    log.info("%s: %s with %d classes, for weights=", output, found.origin, len(names))


def caffe_source(layers: caffe.Layers) -> Source:
    """What a .caffemodel of a detector tells. Its deltas are plain: the deviations are in the weights."""
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
        deviations=(1.0, 1.0, 1.0, 1.0),
    )


def detectron2_source(weights: Mapping[str, Tensor]) -> Source:
    """What a checkpoint of Detectron2's C4 tells. Its deltas are to be divided by (10, 10, 5, 5)."""
    backbone = detectron2.backbone_state(weights)
    depth = {6: 50, 23: 101}.get(sum(1 for name in backbone if re.fullmatch(r"layer3\.\d+\.conv1\.weight", name)))
    if depth is None:
        raise ValueError("expected the blocks of a ResNet-50 or 101 in res4 of this file")
    num_classes = len(weights[f"{detectron2.SCORES}.bias"]) - 1
    agnostic = len(weights[f"{detectron2.BOXES}.bias"]) == 4 and num_classes > 1

    def head(detector: Detector) -> dict[str, Tensor]:
        if not isinstance(detector.proposals, RPN):
            raise ConfigError("the file brings its own proposal network; leave proposals=rpn")
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
        deviations=(0.1, 0.1, 0.2, 0.2),
    )


def torchvision_source(weights: Mapping[str, Tensor]) -> Source:
    """What a state dict of torchvision's FasterRCNN with a pyramid tells. Its box units are those of Detectron2."""
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
        deviations=(0.1, 0.1, 0.2, 0.2),
    )


def fill(detector: Detector, found: Source, source: str) -> None:
    """Loads the weights. Raises ValueError naming what is missing, unknown or of another shape."""
    known = detector.state_dict()
    state = found.head(detector)
    for name, value in found.backbone.items():
        place = f"backbone.{detector.backbone.rename(name)}"  # type: ignore[attr-defined]
        if place in known:  # a classifier's last layer has no place here, nor has its tail in an R-FCN
            state[place] = value
    state["coder.mean"] = torch.zeros_like(detector.coder.mean)
    state["coder.std"] = state["coder.mean"] + torch.tensor(found.deviations)
    load_weights(detector, state, source)


def class_names(classes: str | None, count: int) -> tuple[str, ...]:
    """The names given as [a,b,c] or in a file with one a line; for 20 classes VOC's. Raises ConfigError for others."""
    if classes is None:
        if count == len(VOC_CLASSES):
            return tuple(VOC_CLASSES)
        raise ConfigError(f"the file has {count} classes without names; give classes=[a,b,...] or classes=FILE")
    if classes.startswith("["):
        names = tuple(name.strip() for name in classes.strip("[]").split(","))
    else:
        names = tuple(line.strip() for line in Path(classes).read_text().splitlines() if line.strip())
    if len(names) != count or len(set(names)) != count:
        raise ConfigError(f"classes has {len(set(names))} names; the file has {count} classes")
    return names


def read_state(path: Path) -> dict[str, Tensor]:
    """The named tensors of a .pth, .pkl or .safetensors; nothing in the file is executed."""
    content: Any
    try:
        if looks_like_safetensors(path):
            return read_safetensors(path)[0]
        if path.suffix == ".pkl":
            content = read_array_pickle(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        reason = str(error).splitlines()[0].removeprefix(f"{path}: ") if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):
            reason = "it holds more than tensors and plain values"
        raise ValueError(
            f"{path} cannot be read ({reason}); where you trust the file, save its state dict alone with the program "
            "that made it: torch.save(model.state_dict(), PATH)"
        ) from error
    content = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not any(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path}: expected tensors by name, found {type(content).__name__}")
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def torchvision_state(weights: dict[str, Tensor], source: Path) -> dict[str, Tensor]:
    """The state dict if its names are those of a classifier. Raises ValueError where they are not."""
    if "conv1.weight" in weights or any(name.startswith("features.") for name in weights):
        return weights
    raise ValueError(
        f"{source}: its names are neither Detectron2's R50-C4 nor a torchvision classifier's "
        f"(first: {', '.join(list(weights)[:3])})"
    )


def write_classifier(path: Path, state: Mapping[str, Tensor], origin: str) -> None:
    """A classifier's state dict as safetensors, for `backbone.weights`."""
    tensors = {name: value.detach().float() if value.is_floating_point() else value for name, value in state.items()}
    write_atomically(path, lambda file: write_safetensors(file, tensors, {"origin": origin}))
    told = "; with input.bgr_255=true and Caffe's mean, see docs/models.md" if origin == "caffe" else ""
    log.info("%s: %d tensors of a classifier: backbone.weights=%s%s", path, len(tensors), path, told)
