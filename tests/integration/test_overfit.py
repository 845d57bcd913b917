"""Training to mAP 1.0, and all files of a run, through the commands only."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from detector.engine.checkpoint import load_checkpoint
from detector.tools import cli

PROTOCOLS = ("voc07_11point", "voc_area")


def metrics_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return content


def test_training_overfits_six_pictures(overfitted: Path) -> None:
    assert metrics_of(overfitted)["voc07_11point"]["mAP"] >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("box", ["giou", "ciou"])
def test_training_with_an_overlap_loss_overfits_six_pictures(box: str, settings: list[str], tmp_path: Path) -> None:
    words = [f"loss.box={box}", "loss.box_weight=10", "trainer.max_steps=600", f"output_dir={tmp_path}"]
    assert cli.run(["train", *settings, *words]) == 0
    assert metrics_of(tmp_path)["voc07_11point"]["mAP"] >= 0.95  # one image's order of scores may differ


def test_a_run_writes_all_its_files(overfitted: Path) -> None:
    names = {path.relative_to(overfitted).as_posix() for path in overfitted.rglob("*") if path.is_file()}
    assert {"config.yaml", "log.txt", "metrics.json", "checkpoints/last.pt", "checkpoints/best.pt"} <= names
    assert any(name.startswith("tensorboard/events") for name in names)
    assert sum(name.startswith("pictures/") for name in names) == 4
    assert {f"detections/comp4_det_test_{name}.txt" for name in ("disc", "ring")} <= names
    assert not {name for name in names if name.endswith(".tmp")}


def test_metrics_name_their_protocols_and_their_step(overfitted: Path) -> None:
    found = metrics_of(overfitted)
    assert found["step"] == 300
    for protocol in PROTOCOLS:
        assert set(found[protocol]) >= {"mAP", "AP", "classes"}
        assert all(0 <= value <= 1 + 1e-9 for value in found[protocol]["AP"].values())


def test_the_config_of_a_run_is_complete(overfitted: Path) -> None:
    config = yaml.safe_load((overfitted / "config.yaml").read_text())
    assert config["trainer"]["max_steps"] == 300
    assert config == load_checkpoint(overfitted)["config"]


def test_the_log_holds_losses_of_logging_steps(overfitted: Path) -> None:
    log = (overfitted / "log.txt").read_text()
    assert "step 20: loss" in log
    assert "loss_cls" in log
    assert "lr 0.02" in log


def test_evaluating_the_checkpoint_gives_the_same_scores(overfitted: Path, tmp_path: Path) -> None:
    assert cli.run(["eval", f"weights={overfitted}", f"output_dir={tmp_path}", "trainer.images_per_step=1"]) == 0
    for protocol in PROTOCOLS:
        assert metrics_of(tmp_path)[protocol] == metrics_of(overfitted)[protocol]


def test_scoring_the_result_files_gives_the_same_scores(overfitted: Path, tmp_path: Path, settings: list[str]) -> None:
    """The files hold rounded scores and boxes. The objects are easy, so no match is near a threshold."""
    words = ["eval", *settings, f"detections={overfitted / 'detections'}", f"output_dir={tmp_path}"]
    assert cli.run(words) == 0
    assert metrics_of(tmp_path)["voc07_11point"]["mAP"] == pytest.approx(metrics_of(overfitted)["voc07_11point"]["mAP"])


def test_predicting_writes_pictures_and_boxes(overfitted: Path, pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures / "JPEGImages", tmp_path / "photos")
    words = ["predict", f"weights={overfitted}", f"images={tmp_path / 'photos'}", f"output_dir={tmp_path / 'out'}"]
    assert cli.run(words) == 0
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert len(content["images"]) == 6
    for name, rows in content["images"].items():
        drawn = np.asarray(Image.open(tmp_path / "out" / f"{Path(name).stem}.jpg"), dtype=int)
        original = np.asarray(Image.open(tmp_path / "photos" / name).convert("RGB"), dtype=int)
        assert drawn.shape == original.shape
        assert np.abs(drawn - original).max() > 60  # boxes are drawn; JPEG alone changes pixels less
        for row in rows:
            assert set(row) == {"class", "score", "box"}
            assert 0 <= row["score"] <= 1
            x1, y1, x2, y2 = row["box"]
            assert 0 <= x1 < x2 <= 128.01
            assert 0 <= y1 < y2 <= 96.01


def test_an_unreadable_picture_is_skipped_with_exit_code_1(
    overfitted: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    shutil.copy(next((pictures / "JPEGImages").iterdir()), tmp_path / "photos" / "good.png")
    (tmp_path / "photos" / "bad.jpg").write_text("no picture")
    words = ["predict", f"weights={overfitted}", f"images={tmp_path / 'photos'}", f"output_dir={tmp_path / 'out'}"]
    assert cli.run(words) == 1
    assert re.search(r"skipped: .*bad\.jpg: cannot decode", capsys.readouterr().err)
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert list(content["images"]) == ["good.png"]
    assert list(content["unreadable"]) == [str(tmp_path / "photos" / "bad.jpg")]


def test_predictions_never_overwrite_the_photographs(
    overfitted: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(next((pictures / "JPEGImages").iterdir()), tmp_path / "a.png")
    Image.open(tmp_path / "a.png").save(tmp_path / "a.jpg")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert cli.run(["predict", f"weights={overfitted}", f"images={tmp_path}", f"output_dir={tmp_path}"]) == 2
    assert "output_dir" in capsys.readouterr().err
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    out = tmp_path / "out"
    assert cli.run(["predict", f"weights={overfitted}", f"images={tmp_path}", f"output_dir={out}"]) == 0
    assert len(list(out.glob("*.jpg"))) == 2  # one for a.png, one for a.jpg


def test_weights_of_other_classes_are_refused(
    overfitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", f"weights={overfitted}", "dataset=synthetic", "dataset.test=2", f"output_dir={tmp_path}"]
    assert cli.run([*words, "dataset.height=96"]) == 0  # the same classes
    more = "dataset.classes=[disc,square,triangle,cross,diamond,ring,star]"
    assert cli.run(["eval", f"weights={overfitted}", more, f"output_dir={tmp_path}"]) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("error: the model has 6 classes")
