"""The memory of a training step and of an evaluation. docs/performance.md states the figures."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detector.configs.schema import EvaluationConfig
from detector.engine.evaluate import detect_all
from detector.metrics.dump import Dump, write_dump
from detector.metrics.tables import DetectionTable, TruthTable
from detector.pipeline.scores import score
from detector.structures import Batch, Detections, Instances
from detector.tools.bench.step import Bench
from tests.peak_memory import peak_growth_kb

PER_IMAGE = 300  # detections
CLASSES = tuple(f"class {number}" for number in range(20))


def test_a_training_step_of_the_blood_cell_recipe_takes_under_800_megabytes() -> None:
    size = argparse.Namespace(device="cpu", height=400, width=544, batch=2)
    bench = Bench(["experiment=rfcn_mobilenet_v2_bccd"], size, None)
    first = peak_growth_kb(bench.step)
    assert 200_000 < first < 800_000, "two maps of stride 8 and their gradients: the peak is seen"
    assert peak_growth_kb(bench.step) < 800_000, "later steps free what they take"


class Random(nn.Module):
    """A detector that returns random boxes."""

    def __init__(self) -> None:
        super().__init__()
        self._random = torch.Generator().manual_seed(0)

    def detect(self, batch: Batch) -> list[Detections]:
        """Return PER_IMAGE detections of each image."""
        return [self._detections() for _ in batch.images]

    def _detections(self) -> Detections:
        boxes, scores = random_boxes(PER_IMAGE, self._random), torch.rand(PER_IMAGE, generator=self._random)
        return Detections(boxes, scores, torch.randint(1, len(CLASSES) + 1, (PER_IMAGE,), generator=self._random))


def random_boxes(count: int, generator: torch.Generator) -> Tensor:
    low = torch.rand(count, 2, generator=generator) * 300
    return torch.cat((low, low + 5 + 90 * torch.rand(count, 2, generator=generator)), dim=1)


def batches(image_ids: list[str]) -> Iterator[Batch]:
    """Yield pictures of 200x200, 120 kilobytes each, that a loader would read."""
    no_objects = Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    for name in image_ids:
        yield Batch([torch.zeros(3, 200, 200, dtype=torch.uint8)], [no_objects], None, [name], [0], [200])


def test_an_evaluation_of_5000_images_takes_under_470_megabytes(tmp_path: Path) -> None:
    """300 detections in each image: lists, tables, VOC's protocols and the saved file."""
    num_images = 5000
    image_ids = [f"{number:06d}" for number in range(num_images)]
    generator = torch.Generator().manual_seed(1)
    truths = TruthTable(
        image_ids=tuple(image_ids),
        classes=CLASSES,
        image_index=np.repeat(np.arange(num_images), 3),
        boxes=random_boxes(3 * num_images, generator).double().numpy(),
        labels=torch.randint(1, len(CLASSES) + 1, (3 * num_images,), generator=generator).numpy(),
        difficult=np.zeros(3 * num_images, np.bool_),
    )
    device, detector = torch.device("cpu"), Random()
    found: dict[str, Any] = {}

    def evaluate() -> None:
        loaded = batches(image_ids)
        items = detect_all(detector, loaded, num_images=num_images, device=device, precision="fp32")  # type: ignore[arg-type]
        table = DetectionTable.from_detections(items, image_ids, CLASSES)
        found["scores"] = score(table, truths, EvaluationConfig()).to_json()
        write_dump(Dump(table, "random boxes"), tmp_path / "detections.npz")
        found["rows"] = len(table)

    peak = peak_growth_kb(evaluate)
    assert found["rows"] == PER_IMAGE * num_images
    assert found["scores"]["voc07_11point"]["mAP"] > 0
    assert 150_000 < peak < 470_000, "pictures that stay in memory would be 600,000"
