"""The curves of a run are read back as written, and shown on its page."""

import json
import re
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from detector.tools.report.plots import lines
from detector.tools.report.training_record import read_training
from detector.tools.report.training_section import training


def write_run(folder: Path) -> None:
    with SummaryWriter(str(folder / "tensorboard")) as writer:
        for step in (10, 20, 30):
            writer.add_scalar("train/loss", 3.0 / step, step)
            writer.add_scalar("train/loss_cls", 1.0 / step, step)
            writer.add_scalar("train/lr", 0.01, step)
            writer.add_scalar("speed/images_per_s", 5.0, step)
        writer.add_scalar("voc_area/mAP", 0.75, 30)
        writer.add_scalar("voc_area/AP_cat", 0.75, 30)
    (folder / "metrics.json").write_text(json.dumps({"minutes": 1.5}))
    choice = {"key": "optimizer.lr", "value": 0.005, "reason": "cells < 4 & more"}
    (folder / "plan.json").write_text(json.dumps({"choices": [choice]}))


def test_curves_are_read_back(tmp_path: Path) -> None:
    write_run(tmp_path)
    record = read_training(tmp_path)
    assert record is not None
    assert list(record.losses) == ["loss", "loss_cls"]
    assert [step for step, _ in record.losses["loss"]] == [10, 20, 30]
    assert abs(record.losses["loss"][0][1] - 0.3) < 1e-6
    assert record.scores == {"voc_area": [(30, 0.75)]}, "only mean AP, not each class"
    assert record.minutes == 1.5
    assert record.plan == [("optimizer.lr", "0.005", "cells < 4 & more")]


def test_a_folder_without_curves_has_no_record(tmp_path: Path) -> None:
    assert read_training(tmp_path) is None


def test_the_page_shows_curves_and_plan(tmp_path: Path) -> None:
    write_run(tmp_path)
    record = read_training(tmp_path)
    assert record is not None
    page = training(record)
    assert "30 steps, 1.5 minutes, 5.0 images/s (median)" in page
    assert page.count("<polyline") == 4  # two losses, one score, the learning rate
    assert "cells &lt; 4 &amp; more" in page


def test_a_line_goes_from_corner_to_corner() -> None:
    drawn = lines({"up": [(0, 0.0), (100, 1.0)]}, width=160, height=144)
    assert 'points="60.0,122.0 160.0,22.0"' in drawn


def test_a_loss_that_is_not_finite_leaves_a_gap() -> None:
    drawn = lines({"loss": [(0, 1.0), (1, float("nan")), (2, 0.5)]})
    assert "nan" not in drawn
    segments = re.findall(r'<polyline[^>]*points="([^"]*)"', drawn)
    assert [len(segment.split()) for segment in segments] == [1, 1], "no line over the gap"
