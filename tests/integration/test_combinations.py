"""Four heads x three proposal sources x two samplers x three backbone families: every combination learns.

The ordinary suite trains four of the 72 rows, which together use every choice. The slow tests train the rest. A row
passes if it misses at most one object of six pictures: processors round differently, so trainings differ. No object is
smaller than two cells of the map: the pooling cannot distinguish grid boxes that round to the same cells.
"""

import itertools
import json
from pathlib import Path

import pytest
import torch

from detector.configs.compose import load_config
from detector.datasets.build import build_dataset
from detector.datasets.proposal_files import from_boxes, save_proposals
from detector.datasets.synthetic import SyntheticDataset
from detector.ops import boxes as box_ops
from detector.tools import cli
from tests.integration.conftest import write_voc

SMALLEST = 36.0  # pixels, at stride 16
BACKBONES = {
    "vgg": [
        "backbone=vgg16_bn",
        "backbone.weights=null",
        "backbone.norm=gn",
        "backbone.width=0.125",
        "backbone.dropout=0",
        "backbone.frozen_stages=0",
    ],
    "resnet": ["backbone=resnet18_narrow"],
    "mobilenet": [
        "backbone=mobilenet_v2",
        "backbone.weights=null",
        "backbone.norm=bn",
        "backbone.tail_channels=256",
        "backbone.frozen_stages=0",
    ],
}
SOURCES = {
    "grid": ["proposals=grid"],
    "file": ["proposals=file"],
    "rpn": [
        "proposals=rpn",
        "proposals.scales=[1,2,4]",
        "proposals.channels=64",
        "proposals.min_size=4",
        "proposals.pre_nms_train=1000",
        "proposals.top_k_train=300",
        "proposals.top_k_test=100",
    ],
}
# R-FCN learns slowly at first: two layers with initial standard deviation 0.01 lie between features and scores.
HEADS = {
    "fast_rcnn": ["head=fast_rcnn", "trainer.max_steps=450", "optimizer.lr=0.001"],
    "light_head": [
        "head=light_head",
        "head.k=3",
        "head.mid_channels=32",
        "head.fc_channels=256",
        "trainer.max_steps=450",
        "optimizer.lr=0.002",
    ],
    "rfcn": ["head=rfcn", "head.channels=128", "head.k=3", "trainer.max_steps=800", "optimizer.lr=0.002"],
    "deformable_rfcn": [
        "head=deformable_rfcn",
        "head.channels=128",
        "head.k=3",
        "trainer.max_steps=1200",
        "optimizer.lr=0.002",
    ],
}
# Sample background of every overlap: an overlap that is never sampled would leave a false positive.
COMMON = ["optimizer=adamw", "schedule.decay=cosine", "sampling.background_iou_low=0"]
SAMPLERS = {
    "random": ["sampling=random", "sampling.rois_per_image=128"],
    "ohem": ["sampling=ohem", "sampling.rois_per_image=64"],
}

EVERY = list(itertools.product(BACKBONES, SOURCES, HEADS, SAMPLERS))
ORDINARY = [
    ("vgg", "file", "rfcn", "ohem"),
    ("resnet", "grid", "light_head", "ohem"),
    ("resnet", "grid", "deformable_rfcn", "ohem"),
    ("mobilenet", "rpn", "fast_rcnn", "random"),
]
LEARNED = 0.9  # mAP


def test_the_ordinary_rows_use_every_choice() -> None:
    for column in range(4):
        assert {row[column] for row in ORDINARY} == {row[column] for row in EVERY}


@pytest.fixture(scope="session")
def settings(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The settings of the suite, with the first six pictures that have several objects, none small or occluded."""
    root = tmp_path_factory.mktemp("large")
    dataset = SyntheticDataset("train", num_images=200, height=96, width=128, seed=0)
    fit = [
        index
        for index, item in enumerate(dataset.annotations)
        if len(item.boxes) > 1 and (item.boxes[:, 2:] - item.boxes[:, :2]).min() >= SMALLEST and not item.occluded.any()
    ]
    write_voc(root, dataset, fit[:6])
    return [*(word for word in settings if not word.startswith("dataset.root=")), f"dataset.root={root}"]


@pytest.fixture(scope="session")
def proposal_file(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with boxes near the objects of the six pictures and random boxes."""
    dataset = build_dataset(load_config(settings).dataset, "train")
    generator = torch.Generator().manual_seed(0)
    boxes = []
    for item in dataset.annotations:
        near = item.boxes.repeat(20, 1)
        side = (near[:, 2:] - near[:, :2]).repeat(1, 2)
        near = near + 0.2 * side * (torch.rand(near.shape, generator=generator) - 0.5)
        limits = torch.tensor([item.width, item.height])
        anywhere = (torch.rand(100, 2, 2, generator=generator) * limits).sort(dim=1).values.flatten(1)
        boxes.append(box_ops.clip(torch.cat((near, anywhere)), item.height, item.width))
    path = tmp_path_factory.mktemp("proposals") / "near.npz"
    save_proposals(path, from_boxes([item.image_id for item in dataset.annotations], boxes))
    return path


def overrides(row: tuple[str, str, str, str], settings: list[str], proposal_file: Path) -> list[str]:
    backbone, source, head, sampler = row
    files = [f"proposals.train={proposal_file}", f"proposals.test={proposal_file}"] if source == "file" else []
    chosen = [*BACKBONES[backbone], *SOURCES[source], *files, *HEADS[head], *SAMPLERS[sampler], *COMMON]
    replaced = {word.split("=")[0] for word in chosen}
    return [*(word for word in settings if word.split("=")[0] not in replaced), *chosen]


@pytest.mark.parametrize(
    "row", [pytest.param(row, id="-".join(row), marks=[] if row in ORDINARY else pytest.mark.slow) for row in EVERY]
)
def test_every_combination_overfits_six_pictures(
    row: tuple[str, str, str, str], settings: list[str], proposal_file: Path, tmp_path: Path
) -> None:
    assert cli.run(["train", *overrides(row, settings, proposal_file), f"output_dir={tmp_path}"]) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["voc07_11point"]["mAP"] >= LEARNED
