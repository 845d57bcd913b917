"""The four steps on a few synthetic images: the weights that each may change, and a second call that does nothing."""

from pathlib import Path

import pytest
import torch

from detector.configs.compose import load_config
from detector.configs.errors import ConfigError
from detector.engine.checkpoint import load_checkpoint
from detector.engine.trainer import Outcome
from detector.pipeline.models import load_model
from detector.tools.commands.alternate import last, run_alternation

SETTINGS = [
    "dataset=synthetic",
    "backbone=resnet18_narrow",
    "proposals=rpn",
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
# The head, and the part of the backbone that only the head reads.
HEADS = {
    "rfcn": (["head=rfcn", "head.k=3", "head.channels=8"], "backbone.layer4."),
    "fast_rcnn": (["head=fast_rcnn", "backbone.tail_channels=16"], "backbone.tail."),
    "fast_rcnn_res5": (["head=fast_rcnn", "backbone.tail=native"], "backbone.tail."),
}


@pytest.mark.parametrize("head", HEADS)
def test_each_step_changes_only_its_weights(head: str, tmp_path: Path) -> None:
    settings, head_only = HEADS[head]
    config = load_config([*SETTINGS, *settings])
    assert run_alternation(config, tmp_path) is Outcome.done
    steps = [load_checkpoint(last(tmp_path / name))["model"] for name in ("1_rpn", "2_detector", "3_rpn", "4_head")]
    _, second, third, fourth = steps

    def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], prefix: str) -> bool:
        keys = [key for key in b if key.startswith(prefix)]
        assert keys
        return all(torch.equal(a[key], b[key]) for key in keys if key in a)

    assert not any(key.startswith("proposals.") for key in second)
    assert same(second, third, "backbone.")
    assert same(third, fourth, "coder.")
    assert same(third, fourth, "proposals.")
    assert same(third, fourth, "backbone.layer3.")
    assert not same(third, fourth, head_only)
    assert not same(third, fourth, "head.")
    # Target statistics are measured with proposal files and fixed with an RPN, so the head of step 2 has other units.
    before, after = (plain_head(tmp_path / name, settings) for name in ("2_detector", "3_rpn"))
    assert before.keys() == after.keys()
    for key, weights in before.items():
        torch.testing.assert_close(weights, after[key], msg=lambda text, key=key: f"{key}: {text}")
    written = [last(tmp_path / name).stat().st_mtime_ns for name in ("1_rpn", "4_head")]
    assert run_alternation(config, tmp_path) is Outcome.done
    assert written == [last(tmp_path / name).stat().st_mtime_ns for name in ("1_rpn", "4_head")]


def plain_head(run: Path, settings: list[str]) -> dict[str, torch.Tensor]:
    """Return the weights of a run's head with the target statistics folded in."""
    others = [word for word in SETTINGS if not word.startswith("proposals")]
    source = ["proposals=grid"] if run.name == "2_detector" else [w for w in SETTINGS if w.startswith("proposals")]
    detector = load_model(last(run), load_config([*others, *source, *settings]), torch.device("cpu")).detector
    detector.set_target_statistics(torch.zeros_like(detector.coder.mean), torch.ones_like(detector.coder.std))
    return detector.head.state_dict()


def test_given_proposals_and_moving_statistics_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set proposals=rpn"):
        run_alternation(load_config(["experiment=demo"]), tmp_path)
    with pytest.raises(ConfigError, match="set frozen_bn or gn"):
        run_alternation(load_config([*SETTINGS, *HEADS["rfcn"][0], "backbone.norm=bn"]), tmp_path)
    with pytest.raises(ConfigError, match="input.mosaic=0.5: step 2 trains on stored proposals"):
        run_alternation(load_config([*SETTINGS, *HEADS["rfcn"][0], "input.mosaic=0.5"]), tmp_path)
