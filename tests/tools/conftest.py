"""A small evaluation (shapes with known boxes, and detections with known errors), and a trained run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detector.configs.compose import load_config
from detector.datasets.build import build_dataset
from detector.metrics.dump import Dump, write_dump
from detector.metrics.tables import DetectionTable, TruthTable
from detector.pipeline.evaluation import truth_table
from detector.tools.cli import run
from tests.tools.tiny_run import TINY

DATASET = ["dataset=synthetic", "dataset.test=6", "proposals=grid"]


@pytest.fixture(scope="session")
def truths() -> TruthTable:
    """The objects of the data set in DATASET."""
    return truth_table(build_dataset(load_config(DATASET).dataset, "test"))


@pytest.fixture(scope="session")
def perfect(truths: TruthTable) -> DetectionTable:
    """Detections of every object, with different scores."""
    scores = np.linspace(0.95, 0.6, len(truths))
    return DetectionTable(truths.image_ids, truths.classes, truths.image_index, truths.boxes, scores, truths.labels)


@pytest.fixture(scope="session")
def faulty(perfect: DetectionTable) -> DetectionTable:
    """The perfect detections, but with a wrong first class, a bad second box and a missed third object."""
    labels, boxes, keep = perfect.labels.copy(), perfect.boxes.copy(), np.ones(len(perfect), np.bool_)
    labels[0] = labels[0] % len(perfect.classes) + 1
    boxes[1, 2:] = boxes[1, :2] + 0.6 * (boxes[1, 2:] - boxes[1, :2])
    keep[2] = False
    return replace(perfect, labels=labels, boxes=boxes).select(keep)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two steps, with two test images. Tests write nothing into it."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert run(["train", *TINY, "dataset.test=2", "trainer.max_steps=2", f"output_dir={folder}"]) == 0
    return folder


@pytest.fixture
def dumped(tmp_path: Path) -> Callable[[DetectionTable, str], Path]:
    """A function that writes a table as the dump of a run and returns the run's folder."""

    def write(table: DetectionTable, name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        write_dump(Dump(table, "synthetic 6", {"nms_iou": 0.3}, "ab" * 32), folder / "detections.npz")
        return folder

    return write


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, Path]]:
    """A function that runs a command line on the small data set. It returns exit code, messages and output folder."""

    def call(*words: str) -> tuple[int, str, Path]:
        folder = tmp_path / "out"
        code = run([*words, *DATASET, f"output_dir={folder}"])
        return code, capsys.readouterr().err, folder

    return call
