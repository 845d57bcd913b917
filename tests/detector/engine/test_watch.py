"""Warnings: given once, after a delay, with the values and the remedy, and never to a healthy run."""

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
def test_a_value_that_stays_wrong_is_reported_once(
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


def test_one_healthy_check_resets_the_count(caplog: pytest.LogCaptureFixture) -> None:
    watch = Watch()
    with caplog.at_level(logging.WARNING, logger="detector"):
        for step in range(20, 2000, 20):
            watch.look(step, HEALTHY if step % 200 == 0 else {"rois_foreground": 0.0, "loss_box": 0.0})
    assert not caplog.records


@pytest.mark.parametrize(
    ("lr", "images", "message"),
    [
        (0.02, 4, None),
        (0.04, 8, None),
        (0.02, 8, None),
        (0.2, 4, "set optimizer.lr=0.02, or expect training to diverge"),
        (0.02, 1, "set optimizer.lr=0.005, or expect training to diverge"),
        (0.02, 64, "set optimizer.lr=0.32, or expect training to learn slowly"),
    ],
)
def test_a_learning_rate_far_from_the_scaled_recipe_is_reported(
    lr: float, images: int, message: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="detector"):
        warn_of_learning_rate(lr, images, recipe_lr=0.02, recipe_images=4)
    assert (message in caplog.text) if message else not caplog.records


@pytest.mark.parametrize("proposals", [[Proposals(torch.zeros(9, 4), torch.zeros(9))], None])
def test_out_of_memory_names_the_batch_and_the_remedy(proposals: list[Proposals] | None) -> None:
    ground_truth = Instances(torch.zeros(3, 4), torch.ones(3, dtype=torch.int64), torch.zeros(3, dtype=torch.bool))
    batch = Batch([torch.zeros(3, 40, 60, dtype=torch.uint8)], [ground_truth], proposals, ["big"], [1], [600])
    count = "learned" if proposals is None else "9"
    message = rf"big \(60x40 px, shorter side to 600, 3 objects, {count} proposals\): raise trainer.micro_batches"
    with pytest.raises(MemoryError, match=message), explaining_out_of_memory(batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    with pytest.raises(MemoryError, match=message), explaining_out_of_memory(batch):
        torch.empty(2**50, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="size"), explaining_out_of_memory(batch):
        _ = torch.ones(2) + torch.ones(3)
