"""torchvision's Faster R-CNN with a pyramid, converted: the same boxes and scores as from torchvision."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.misc import FrozenBatchNorm2d

from detector.configs.compose import override_config
from detector.pipeline.models import load_model, read_model_config
from detector.structures import Batch, Detections, Instances
from detector.tools.commands.convert import run_convert

CLASSES = 4
SHORT, LONG = 160, 250
# Sides are rounded down (100 x 133 to 160 x 212.8), and 303 * (160 / 303) is less than 160, so the shorter side is 159.
# 160 pixels are 3 cells of P6, 53 pixels apart. In a batch, a part of each canvas is padding.
BATCHES = (((128, 192),), ((400, 303),), ((100, 133), (333, 500), (90, 400)))


def randomised(model: nn.Module) -> FasterRCNN:
    """Return the model in evaluation mode, with scores and boxes that differ from RoI to RoI."""
    assert isinstance(model, FasterRCNN)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(1 + torch.rand(tensor.shape, generator=generator))
        elif name.endswith("running_mean"):
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    scales = {
        "rpn.head.cls_logits": 0.05, "rpn.head.bbox_pred": 0.01, "roi_heads.box_predictor.cls_score": 0.05,
        "roi_heads.box_predictor.bbox_pred": 0.02,
    }  # fmt: skip
    for name, scale in scales.items():
        layer = model.get_submodule(name)
        nn.init.normal_(layer.weight, std=scale, generator=generator)  # type: ignore[arg-type]
        nn.init.normal_(layer.bias, std=scale, generator=generator)  # type: ignore[arg-type]
    return model.eval()


def small(norm: type[nn.Module] = nn.BatchNorm2d) -> FasterRCNN:
    """Return a model with ResNet-18, composed as users do. Frozen norms have eps 0, as for released weights."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5, norm_layer=norm)
    model = FasterRCNN(backbone, CLASSES + 1, min_size=SHORT, max_size=LONG)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = 0.0
    return randomised(model)


def detections(path: Path, images: list[torch.Tensor]) -> list[Detections]:
    """Return the detections of the converted model at `path`."""
    sizes = [f"input.test_short_side={SHORT}", f"input.max_side={LONG}"]
    model = load_model(path, override_config(read_model_config(path), sizes), torch.device("cpu"))
    nothing = Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    count = len(images)
    return model.detector.detect(Batch(images, [nothing] * count, None, ["a"] * count, [0] * count, [SHORT] * count))


def require_same_detections(model: FasterRCNN, folder: Path, names: str) -> None:
    torch.save(model.state_dict(), folder / "fpn.pth")
    run_convert(folder / "fpn.pth", folder / "fpn.safetensors", names, [])
    generator = torch.Generator().manual_seed(1)
    for sizes in BATCHES:
        images = [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]
        with torch.no_grad():
            theirs = model([image / 255 for image in images])
        for found, expected in zip(detections(folder / "fpn.safetensors", images), theirs, strict=True):
            assert len(found) == len(expected["boxes"]) == 100
            torch.testing.assert_close(found.scores, expected["scores"], rtol=0, atol=1e-4)
            torch.testing.assert_close(found.boxes, expected["boxes"], rtol=1e-4, atol=1e-4)
            assert torch.equal(found.labels, expected["labels"])


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, FrozenBatchNorm2d])
def test_boxes_and_scores_equal_those_of_torchvision(norm: type[nn.Module], tmp_path: Path) -> None:
    require_same_detections(small(norm), tmp_path, "[a,b,c,d]")


@pytest.mark.slow
def test_boxes_and_scores_of_resnet50_fpn_equal_those_of_torchvision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"min_size": SHORT, "max_size": LONG}
    model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES + 1, **sizes)
    require_same_detections(randomised(model), tmp_path, "[a,b,c,d]")
