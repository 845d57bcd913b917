"""fp16 in the loop: a step whose gradients overflow is skipped and the loss scale falls. The scale is resumed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detector.engine.checkpoint import load_checkpoint
from detector.engine.monitor import Monitor
from detector.engine.trainer import LoopSettings, Outcome, TrainingState, train
from detector.structures import Batch, Instances, Losses, Mean

FIRST_SCALE = 65536.0  # torch's default
LR = 0.1


class _Steep(nn.Module):
    """Loss 2 w in float16, always finite. Above a scale of 16,384 the scaled gradient overflows.

    float16 ends at 65,504. So the first two steps overflow.
    """

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, batch: Batch) -> Losses:
        loss = (2 * self.w.half()).float().sum()
        return Losses({"loss": Mean(loss, torch.tensor(1))}, {}, {})


def make_state(precision: str = "fp16") -> TrainingState:
    detector: Any = _Steep()
    optimizer = torch.optim.SGD(detector.parameters(), lr=LR)
    return TrainingState(
        detector=detector,
        optimizer=optimizer,
        schedule=torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0),
        scaler=torch.amp.GradScaler("cpu", enabled=precision == "fp16"),
        about={},
    )


def run(folder: Path, state: TrainingState, max_steps: int, clip_norm: float | None = None) -> Outcome:
    settings = LoopSettings(
        max_steps=max_steps, max_minutes=None, seed=1, precision="fp16", clip_norm=clip_norm, eval_every=0,
        checkpoint_every=0, keep_every=0, on_nonfinite="stop",
    )  # fmt: skip
    nothing = Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    batch = Batch([torch.zeros(3, 4, 4, dtype=torch.uint8)], [nothing], None, ["image"], [0], [4])

    def batches() -> Iterator[Batch]:
        while True:
            yield batch

    monitor = Monitor(folder / "tensorboard", first_step=state.step, max_steps=max_steps, log_every=2)
    try:
        return train(
            state, batches(), settings, device=torch.device("cpu"), monitor=monitor, evaluate=lambda step: 0.0,
            checkpoints=folder / "checkpoints",
        )  # fmt: skip
    finally:
        monitor.close()


def weight(state: TrainingState) -> float:
    return state.detector.w.item()  # type: ignore[union-attr, operator, return-value]


def test_steps_that_overflow_are_skipped_and_lower_the_scale(tmp_path: Path) -> None:
    """Every loss is finite, so the run does not stop. The schedule counts every step."""
    state = make_state()
    assert run(tmp_path, state, 2) is Outcome.done
    assert (weight(state), state.scaler.get_scale()) == (1.0, FIRST_SCALE / 4)
    assert run(tmp_path, state, 3) is Outcome.done
    assert weight(state) == pytest.approx(1 - LR * 2)
    assert (state.scaler.get_scale(), state.schedule.last_epoch) == (FIRST_SCALE / 4, 3)
    assert not list(tmp_path.glob("nonfinite_*"))


def test_gradients_are_clipped_after_unscaling(tmp_path: Path) -> None:
    """Scaled gradients are 32,768. Clipped to 0.5 before unscaling, they would change nothing."""
    state = make_state()
    run(tmp_path, state, 3, clip_norm=0.5)
    assert weight(state) == pytest.approx(1 - LR * 0.5, rel=1e-5)
    assert state.scaler.get_scale() == FIRST_SCALE / 4


@pytest.mark.parametrize("stopped_at", [1, 2, 4])
def test_the_scale_is_resumed(stopped_at: int, tmp_path: Path) -> None:
    whole, first, second = make_state(), make_state(), make_state()
    run(tmp_path / "whole", whole, 6)
    run(tmp_path / "parts", first, stopped_at)
    second.load(load_checkpoint(tmp_path / "parts"), "parts")
    run(tmp_path / "parts", second, 6)
    assert weight(second) == weight(whole)
    assert second.scaler.state_dict() == whole.scaler.state_dict()
    assert whole.scaler.state_dict()["_growth_tracker"] == 4  # the steps since the scale last fell


@pytest.mark.parametrize(("before", "after"), [("fp32", "fp16"), ("fp16", "fp32")])
def test_a_run_can_resume_in_another_precision(before: str, after: str, tmp_path: Path) -> None:
    make_state(before).save(tmp_path / "checkpoints" / "last.pt")
    state = make_state(after)
    state.load(load_checkpoint(tmp_path), "here")
    assert state.scaler.get_scale() == (FIRST_SCALE if after == "fp16" else 1.0)
