"""Warnings: told once, after long enough, with the figures and the remedy; and never to a healthy run."""

import logging

import pytest
import torch

from detector.engine.memory import explaining_out_of_memory
from detector.engine.watch import PATIENCE_STEPS, Watch, warn_of_learning_rate
from detector.structures import Batch, Instances, Proposals

HEALTHY = {"rois_foreground": 12.0, "loss_box": 0.3, "loss_scale": 65536.0}


@pytest.mark.parametrize(
    ("means", "message"),
    [
        ({"rois_foreground": 0.0, "loss_box": 0.0}, "no RoI was foreground"),
        ({"rois_foreground": 3.0, "loss_box": 0.0}, "loss_box was exactly 0"),
        ({"loss_scale": 0.5}, "the loss scale of trainer.precision=fp16 was below 1"),
    ],
)
def test_a_figure_that_stays_wrong_is_told_once(
    means: dict[str, float], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    watch = Watch()
    with caplog.at_level(logging.WARNING, logger="detector"):
        for step in range(20, 20 + PATIENCE_STEPS, 20):
            watch.look(step, means)
        assert caplog.text == ""
        for step in range(20 + PATIENCE_STEPS, 1000, 20):
            watch.look(step, means)
    assert caplog.text.count(message) == len(caplog.records) == 1


def test_one_healthy_look_starts_the_count_anew(caplog: pytest.LogCaptureFixture) -> None:
    watch = Watch()
    with caplog.at_level(logging.WARNING, logger="detector"):
        for step in range(20, 2000, 20):
            watch.look(step, HEALTHY if step % 200 == 0 else {"rois_foreground": 0.0, "loss_box": 0.0})
    assert not caplog.records


@pytest.mark.parametrize(
    ("lr", "images", "told"),
    [
        (0.02, 4, None),
        (0.04, 8, None),
        (0.02, 8, None),
        (0.2, 4, "set optimizer.lr=0.02, or expect training to diverge"),
        (0.02, 1, "set optimizer.lr=0.005, or expect training to diverge"),
        (0.02, 64, "set optimizer.lr=0.32, or expect training to learn slowly"),
    ],
)
def test_the_learning_rate_follows_the_batch(
    lr: float, images: int, told: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="detector"):
        warn_of_learning_rate(lr, images, recipe_lr=0.02, recipe_images=4)
    assert (told in caplog.text) if told else not caplog.records


@pytest.mark.parametrize("proposals", [[Proposals(torch.zeros(9, 4), torch.zeros(9))], None])
def test_out_of_memory_names_the_batch_and_what_to_lower(proposals: list[Proposals] | None) -> None:
    truths = Instances(torch.zeros(3, 4), torch.ones(3, dtype=torch.int64), torch.zeros(3, dtype=torch.bool))
    batch = Batch([torch.zeros(3, 40, 60, dtype=torch.uint8)], [truths], proposals, ["big"], [1], [600])
    count = "learned" if proposals is None else "9"
    told = rf"big \(60x40 px, shorter side to 600, 3 objects, {count} proposals\): raise trainer.micro_batches"
    with pytest.raises(MemoryError, match=told), explaining_out_of_memory(batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    with pytest.raises(MemoryError, match=told), explaining_out_of_memory(batch):
        torch.empty(2**50, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="size"), explaining_out_of_memory(batch):
        _ = torch.ones(2) + torch.ones(3)
