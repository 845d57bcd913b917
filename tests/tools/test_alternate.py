"""The four steps on a few synthetic images: what each may change, and that a second call has nothing to do."""

from pathlib import Path

import pytest
import torch

from detector.configs.errors import ConfigError
from detector.engine.checkpoint import load_checkpoint
from detector.engine.trainer import Outcome
from detector.tools.alternate import last, run_alternation
from detector.tools.settings import load_config

SETTINGS = [
    "dataset=synthetic",
    "backbone=resnet18_narrow",
    "proposals=rpn",
    "head=rfcn",
    "head.k=3",
    "head.channels=8",
    "proposals.channels=8",
    "proposals.scales=[1.0,2.0]",
    "proposals.min_size=1.0",
    "dataset.train=4",
    "dataset.test=2",
    "dataset.height=64",
    "dataset.width=64",
    "input.short_sides=[64]",
    "input.test_short_side=64",
    "trainer.max_steps=2",
    "trainer.images_per_step=2",
    "trainer.workers=0",
    "trainer.device=cpu",
]


@pytest.mark.slow
def test_the_steps_change_what_they_may_and_no_more(tmp_path: Path) -> None:
    config = load_config(SETTINGS)
    assert run_alternation(config, tmp_path) is Outcome.done
    steps = [load_checkpoint(last(tmp_path / name)) for name in ("1_rpn", "2_detector", "3_rpn", "4_head")]
    second, third, fourth = (step["model"] for step in steps[1:])

    def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], prefix: str) -> bool:
        keys = [key for key in b if key.startswith(prefix)]
        assert keys
        return all(torch.equal(a[key], b[key]) for key in keys if key in a)

    assert not any(key.startswith("proposals.") for key in second)
    assert same(second, third, "backbone.")
    assert same(second, third, "head.")
    assert same(second, fourth, "coder.")
    assert same(third, fourth, "proposals.")
    assert same(third, fourth, "backbone.layer3.")
    assert not same(third, fourth, "backbone.layer4.")
    assert not same(third, fourth, "head.")
    written = [last(tmp_path / name).stat().st_mtime_ns for name in ("1_rpn", "4_head")]
    assert run_alternation(config, tmp_path) is Outcome.done
    assert written == [last(tmp_path / name).stat().st_mtime_ns for name in ("1_rpn", "4_head")]


def test_given_proposals_and_moving_statistics_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set proposals=rpn"):
        run_alternation(load_config(["experiment=demo"]), tmp_path)
    with pytest.raises(ConfigError, match="set frozen_bn or gn"):
        run_alternation(load_config([*SETTINGS, "backbone.norm=bn"]), tmp_path)
