"""The plan fits its settings to the parts and values of the command line."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from detector.build import build_backbone
from detector.configs import schema
from detector.pipeline.planning.anchors import ENOUGH, shape_recall
from detector.pipeline.planning.planner import Plan, fit_steps, plan_run
from detector.pipeline.planning.trial import Trial
from detector.proposals.anchors import base_anchors

SIDE = 20 / 64  # of the squares, relative to the image's shorter side


def planned(folder: Path, *words: str) -> tuple[schema.Config, Plan]:
    split = ("dataset=voc", "dataset.train=trainval", "dataset.test=test", "trainer.device=cpu")
    return plan_run(str(folder), [*split, "backbone.weights=null", *words])


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("backbone=resnet18_narrow",),
        ("backbone.name=resnet18", "backbone.node=layer3.1"),
        ("backbone=resnet18_narrow", "input.test_short_side=96"),
        ("input.short_sides=[96,128]",),
    ],
)
def test_anchors_fit_the_map_and_the_sizes(folder: Path, words: tuple[str, ...]) -> None:
    """At 96 pixels a square has a side of 30, so the rules would choose a map of stride 8 if they could."""
    config, _ = planned(folder, *words)
    rpn, sides = config.proposals, SIDE * np.asarray(config.input.short_sides, dtype=float)
    assert isinstance(rpn, schema.RPNConfig)
    (stride,) = build_backbone(config).proposal_strides
    anchors = base_anchors(stride, tuple(rpn.scales), tuple(rpn.aspects)).double().numpy()
    assert shape_recall(sides, sides, anchors) >= ENOUGH
    least, most = min(config.input.short_sides), max(config.input.short_sides)
    assert least <= config.input.test_short_side <= most
    assert config.input.max_side >= 1.5 * most


def test_without_mosaics_the_box_loss_is_smooth_l1(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan sets GIoU only with mosaics."""
    monkeypatch.setattr("detector.pipeline.planning.planner.measure", lambda *_, **__: Trial(0.1, 0.1, 0.0))
    data: Any = SimpleNamespace(train_view=range(5), test_view=range(3))
    detector: Any = None
    chosen = []
    for words in ((), ("input.mosaic=0",)):
        config, plan = planned(folder, *words)
        chosen.append(fit_steps(plan, config, words, data, detector, torch.device("cpu"), 0.0)[0].loss.box)
    assert chosen == [schema.BoxLoss.giou, schema.BoxLoss.smooth_l1]


def test_the_learning_rate_fits_the_images_per_step(folder: Path) -> None:
    assert planned(folder, "trainer.images_per_step=1")[0].optimizer.lr == pytest.approx(0.0004 / 2**0.5, abs=1e-6)
