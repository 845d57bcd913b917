"""Tables to evaluate: small random tables, and those of VOC2007."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from detector.metrics.tables import DetectionTable, TruthTable

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of development data beside the repository."""
    for folder in (ROOT.parent / "shared" / "data", ROOT.parent.parent / "shared" / "data"):
        if folder.is_dir():
            return folder
    pytest.skip("needs the development data in shared/data beside the repository")


@pytest.fixture(scope="session")
def voc2007_test(shared: Path) -> TruthTable:
    """The 4,952 images and 14,976 objects of VOC2007 test."""
    classes = (
        *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable"),
        *("dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
    )
    files = {}
    with tarfile.open(shared / "voc2007_annotations.tar.xz") as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file and (member.name.startswith("VOC2007/Annotations/") or member.name.endswith("Main/test.txt")):
                files[member.name.removeprefix("VOC2007/")] = file.read()
    annotations = []
    for image_id in files["ImageSets/Main/test.txt"].decode().split():
        root = ElementTree.fromstring(files[f"Annotations/{image_id}.xml"])
        objects = root.findall("object")
        sides = ("xmin", "ymin", "xmax", "ymax")
        corners = [[float(item.findtext(f"bndbox/{side}", "")) for side in sides] for item in objects]
        annotations.append(
            SimpleNamespace(
                image_id=image_id,
                width=int(root.findtext("size/width", "")),
                height=int(root.findtext("size/height", "")),
                boxes=torch.tensor(corners).reshape(-1, 4) - torch.tensor([1.0, 1.0, 0.0, 0.0]),
                labels=torch.tensor([classes.index(item.findtext("name", "")) + 1 for item in objects]),
                difficult=torch.tensor([item.findtext("difficult") == "1" for item in objects]),
                truncated=torch.tensor([item.findtext("truncated") == "1" for item in objects]),
                occluded=torch.tensor([item.findtext("occluded") == "1" for item in objects]),
            )
        )
    return TruthTable.from_annotations(annotations, classes)


@pytest.fixture(scope="session")
def voc2007_results(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the two sets of result files."""
    folder = tmp_path_factory.mktemp("voc2007_detections")
    for name in ("tinyyolo_caffe", "yolo2_root19"):
        with tarfile.open(shared / "voc2007_detections" / f"{name}.tar.xz") as archive:
            archive.extractall(folder, filter="data")
    return folder


TableMaker = Callable[[int], tuple[DetectionTable, TruthTable]]


@pytest.fixture(scope="session")
def make_tables() -> TableMaker:
    """Small random tables with empty images and classes, difficult objects, near and exact duplicates, equal scores."""
    return _make_tables


def _make_tables(seed: int) -> tuple[DetectionTable, TruthTable]:
    rng = np.random.default_rng(seed)
    num_images, num_classes = rng.integers(1, 6), rng.integers(1, 4)
    num_truths, num_detections = rng.integers(0, 16), rng.integers(0, 40)
    image_ids = tuple(f"{number:06d}" for number in rng.permutation(1000)[:num_images])
    classes = tuple("abc"[:num_classes])
    truth_images = rng.integers(0, num_images, num_truths)
    truth_labels = rng.integers(1, num_classes + 1, num_truths)
    truth_boxes = _boxes(rng, num_truths)
    images, labels = rng.integers(0, num_images, num_detections), rng.integers(1, num_classes + 1, num_detections)
    boxes = _boxes(rng, num_detections)
    if num_truths:
        near = rng.random(num_detections) < 0.7
        source = rng.integers(0, num_truths, num_detections)[near]
        images[near], labels[near] = truth_images[source], truth_labels[source]
        shifted = truth_boxes[source] + rng.integers(-3, 4, (len(source), 4))
        boxes[near] = np.concatenate((shifted[:, :2], np.maximum(shifted[:, 2:], shifted[:, :2] + 1)), axis=1)
    scores = rng.permutation(num_detections) / max(1, num_detections)
    detections = DetectionTable(image_ids, classes, images, boxes, scores.round(1), labels)
    difficult = rng.random(num_truths) < 0.3
    return detections, TruthTable(image_ids, classes, truth_images, truth_boxes, truth_labels, difficult)


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return boxes [count, 4] with corners on whole pixels, so that overlaps of exactly one half occur."""
    corner, size = rng.integers(0, 16, (count, 2)), rng.integers(1, 9, (count, 2))
    return np.concatenate((corner, corner + size), axis=1).astype(np.float64)
