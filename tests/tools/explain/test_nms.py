"""`detector explain nms`: kept and removed boxes as in greedy suppression, their picture, one line per fault."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detector.ops.boxes import iou
from detector.tools import cli
from detector.tools.explain.nms import KEPT, REMOVED, SIDE, run_explain_nms, suppress


def test_kept_and_removed_boxes_of_the_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["explain", "nms", f"output={tmp_path / 'a.png'}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "nms: 4 of 7 boxes kept, IoU threshold 0.5"
    outcomes = [re.sub(r"  +", " ", line.partition(" box ")[0]).strip() for line in lines[1:-1]]
    assert outcomes == [
        "1 score 0.95 kept",
        "2 score 0.91 kept",
        "3 score 0.88 removed by 1, IoU 0.740",
        "4 score 0.74 removed by 1, IoU 0.575",
        "5 score 0.66 removed by 2, IoU 0.751",
        "6 score 0.52 kept",  # box 4 overlaps it by 0.578, but is removed
        "7 score 0.31 kept",
    ]
    assert lines[3].endswith("box 60 72 214 310")


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
def test_removals_follow_greedy_suppression(threshold: float) -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(60, 2, generator=generator) * 30
    boxes = torch.cat((corners, corners + 30 + torch.rand(60, 2, generator=generator) * 20), dim=1)
    boxes[5], boxes[6] = (
        torch.tensor([9.0, 9, 9, 9]),
        torch.tensor([50.0, 50, 9, 9]),
    )  # no area: they overlap no other box
    result = suppress(boxes, (torch.rand(60, generator=generator) * 10).round(), threshold)
    assert (result.scores.diff() <= 0).all()
    overlaps, kept = iou(result.boxes, result.boxes), list[int]()
    for index, cause in enumerate(result.removed_by):
        winner = next((other for other in kept if overlaps[other, index] > threshold), None)
        assert (None if cause is None else cause[0]) == winner
        if cause is None:
            kept.append(index)
        else:
            assert cause[1] == pytest.approx(overlaps[cause[0], index].item())
    assert 2 < len(kept) < 50


def test_boxes_of_equal_scores_keep_their_order(tmp_path: Path) -> None:
    words = ["boxes=0,0,10,10;0,0,10,9;0,0,10,8", "scores=0.5,0.5,0.5", "iou=0.85", f"output={tmp_path / 'a.png'}"]
    result = run_explain_nms(words)
    assert result.boxes[:, 3].tolist() == [10, 9, 8]
    assert result.removed_by == [None, (0, pytest.approx(0.9)), None]


def test_kept_boxes_have_solid_lines_and_removed_boxes_dashed_lines(tmp_path: Path) -> None:
    run_explain_nms(["boxes=0,0,92,92;0,10,92,100", "scores=0.9,0.8", f"output={tmp_path / 'a.png'}"])
    with Image.open(tmp_path / "a.png") as opened:
        pixels = np.asarray(opened.convert("RGB")).astype(int)
    # The longer side of the union spans SIDE pixels from (48, 78). The lower edges are at 92 and 100 of 100.
    shares = []
    for color, y in ((KEPT, 78 + SIDE * 92 / 100 - 1), (REMOVED, 78 + SIDE)):
        row = pixels[round(y), 70:430]
        shares.append((np.abs(row - color).max(axis=-1) < 24).mean())
    assert shares[0] == 1
    assert 0.3 < shares[1] < 0.8


@pytest.mark.parametrize("boxes", ["5,5,5,5;5,5,5,5", "9,9,2,2;0,9,9,9", "-1e9,0,1e9,1;0,0,1,1"])
def test_degenerate_boxes_are_drawn(boxes: str, tmp_path: Path) -> None:
    result = run_explain_nms([f"boxes={boxes}", "scores=1,2", f"output={tmp_path / 'a.png'}"])
    assert result.removed_by == [None, None]
    with Image.open(tmp_path / "a.png") as opened:
        assert max(opened.size) < 1200


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("boxes=0,0,1,1", "give boxes= and scores= together"),
        ("scores=1", "give boxes= and scores= together"),
        ("boxes=0,0,1 scores=1", "boxes=0,0,1: expected 4 numbers, x1,y1,x2,y2"),
        ("boxes=0,0,1,1 scores=1,2", "scores=1,2: expected 1 numbers, one per box"),
        ("boxes=0,0,1,1 scores=nan", "scores=nan: expected 1 numbers"),
        ("iou=2", "iou=2: expected a number from 0 to 1"),
        ("iou=half", "iou=half: expected a number from 0 to 1"),
        ("iuo=0.5", "did you mean iou?"),
        ("output=a.txt", "output=a.txt: expected the name of a picture"),
    ],
)
def test_faults_give_one_line(words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = [] if "output=" in words else [f"output={tmp_path / 'a.png'}"]
    assert cli.run(["explain", "nms", *words.split(), *output]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not list(tmp_path.iterdir())
