"""`detector explain ps_roi_pool weights=...`: the votes of an untrained R-FCN, drawn and printed as in the head."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from detector.build import build_detector
from detector.configs.compose import load_config
from detector.configs.groups import to_plain
from detector.datasets.images import read_image
from detector.engine.checkpoint import save_checkpoint
from detector.pipeline.predictor import make_batch
from detector.pipeline.versions import versions
from detector.preprocess import to_input
from detector.tools import cli

CLASSES = ["cat", "dog"]
BOX = (20.0, 12.0, 70.0, 50.0)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    pixels = torch.randint(0, 256, (64, 96, 3), dtype=torch.uint8).numpy()
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def checkpoint(folder: Path, *overrides: str) -> Path:
    """Save a model with random weights as a run does."""
    words = ("backbone=resnet18_narrow", "backbone.weights=null", "proposals=grid", "input.test_short_side=64")
    config = load_config([*words, "trainer.device=cpu", *overrides])
    torch.manual_seed(0)
    detector = build_detector(config, len(CLASSES))
    about = {"config": to_plain(config), "classes": CLASSES, "versions": versions()}
    save_checkpoint(folder / "last.pt", {**about, "step": 0, "model": detector.state_dict()})
    return folder / "last.pt"


@pytest.mark.parametrize("pooling", ["mean", "max", "align"])
def test_printed_votes_equal_those_of_the_head(
    pooling: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint(tmp_path, "head=rfcn", "head.k=3", "head.channels=16", f"head.pooling={pooling}")
    box = ",".join(str(value) for value in BOX)
    out = tmp_path / "votes.png"
    words = ["explain", "ps_roi_pool", f"weights={path}", f"images={photo}", f"box={box}", "class=dog", f"output={out}"]
    assert cli.run(words) == 0
    printed = capsys.readouterr().out
    config = load_config(
        ["backbone=resnet18_narrow", "backbone.weights=null", "proposals=grid", "input.test_short_side=64", "head=rfcn",
         "head.k=3", "head.channels=16", f"head.pooling={pooling}"]
    )  # fmt: skip
    torch.manual_seed(0)
    detector = build_detector(config, len(CLASSES)).eval()
    with torch.no_grad():
        inputs = detector.preprocess(make_batch([read_image(photo)], [torch.tensor([BOX])], 64))
        maps = detector.head.maps(detector.backbone(inputs.images).head)
        logits = detector.head(maps, [to_input(torch.tensor([BOX]), inputs.frames[0])]).logits[0]
    for name, logit, share in zip(["background", *CLASSES], logits, logits.softmax(0), strict=True):
        found = re.search(rf"{name} +vote ([-+.\d]+), probability ([.\d]+)", printed)
        assert found is not None
        assert float(found[1]) == pytest.approx(float(logit), abs=2e-3)
        assert float(found[2]) == pytest.approx(float(share), abs=2e-3)
    with Image.open(out) as picture:
        assert picture.width > 900


def test_faults_give_one_line(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for head in ("fast_rcnn", "light_head"):
        path = checkpoint(tmp_path, f"head={head}")
        assert cli.run(["explain", "ps_roi_pool", f"weights={path}", f"images={photo}"]) == 2
        assert f"the model has head={head}; only head=rfcn has score maps" in capsys.readouterr().err
    path = checkpoint(tmp_path, "head=rfcn", "head.channels=16", "postprocess.score_threshold=0.999")
    for word, message in (
        ("class=cow", "class=cow: the model has no such class; use one of background, cat, dog"),
        ("class=cat", "the model detects no cat there; give a box with box=x1,y1,x2,y2"),
    ):
        assert cli.run(["explain", "ps_roi_pool", f"weights={path}", f"images={photo}", word]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert cli.run(["explain", "ps_roi_pool", f"weights={tmp_path / 'no.pt'}", f"images={photo}"]) == 1
    assert "no such file" in capsys.readouterr().err
