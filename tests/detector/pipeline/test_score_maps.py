"""Score maps in TensorBoard: the votes of a head with score maps are drawn, other heads are skipped."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from detector.build import build_detector
from detector.configs.compose import load_config
from detector.datasets.augment import EvaluationView
from detector.datasets.synthetic import SyntheticDataset
from detector.model import Detector
from detector.pipeline.loaders import collate
from detector.pipeline.score_maps import show_score_maps, votes_of
from detector.structures import Batch, Detections

VIEW = EvaluationView(SyntheticDataset("test", num_images=3, height=48, width=64, seed=0), None, short_side=48)
BOX = torch.tensor([[10.0, 8.0, 40.0, 40.0]])


def detector(*words: str) -> Detector:
    torch.manual_seed(0)
    config = load_config(["backbone=resnet18_narrow", "backbone.weights=null", "proposals=grid", *words])
    return build_detector(config, len(VIEW.dataset.classes)).train()


def pictures(folder: Path, model: Detector, found: list[Detections]) -> list[str]:
    with SummaryWriter(str(folder)) as writer:
        show_score_maps(writer, 7, model, VIEW, found, 3, torch.device("cpu"), "fp32")
    events = EventAccumulator(str(folder))
    events.Reload()
    tags: list[str] = events.Tags()["images"]
    return tags


def detections(count: int) -> Detections:
    return Detections(BOX.expand(count, 4), torch.full((count,), 0.5), torch.full((count,), 2))


@pytest.mark.parametrize("pooling", ["mean", "max", "align"])
def test_each_image_with_a_detection_gets_a_picture(pooling: str, tmp_path: Path) -> None:
    model = detector("head=rfcn", "head.k=3", "head.channels=16", f"head.pooling={pooling}")
    tags = pictures(tmp_path, model, [detections(2), detections(0), detections(1)])
    ids = [item.image_id for item in VIEW.dataset.annotations]
    assert tags == [f"score_maps/{ids[0]}", f"score_maps/{ids[2]}"]
    assert model.training, "the mode is unchanged"


@pytest.mark.parametrize(
    ("head", "name"), [("fast_rcnn", "FastRCNNHead"), ("light_head", "LightHead")], ids=["fast_rcnn", "light_head"]
)
def test_a_head_without_score_maps_is_skipped(head: str, name: str, tmp_path: Path) -> None:
    model = detector(f"head={head}")
    assert pictures(tmp_path, model, [detections(1)] * 3) == []
    with pytest.raises(ValueError, match=f"{name}; only head=rfcn makes score maps"):
        votes_of(model, batch(), BOX[0])


def test_the_stride_is_measured_in_pixels_of_the_original_image() -> None:
    model = detector("head=rfcn", "head.k=3", "head.channels=16").eval()
    half = replace(batch(), short_sides=[24])
    assert votes_of(model, batch(), BOX[0]).stride == pytest.approx(16)
    assert votes_of(model, half, BOX[0]).stride == pytest.approx(32)


def batch() -> Batch:
    return collate([VIEW[0]])
