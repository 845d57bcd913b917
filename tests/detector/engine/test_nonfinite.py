"""A loss that is not finite: the three policies in the loop, and the report that helps to find the cause."""

import json
import logging
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detector.build import build_detector
from detector.configs.compose import load_config
from detector.engine.checkpoint import load_checkpoint
from detector.engine.errors import NonFiniteLossError
from detector.engine.monitor import Monitor
from detector.engine.nonfinite import MOST_IN_A_ROW
from detector.engine.postmortem import write_postmortem
from detector.engine.trainer import LoopSettings, Outcome, TrainingState, train
from detector.model import Detector
from detector.structures import Batch, Instances, Losses, Mean, Proposals


def make_batch(name: str = "a") -> Batch:
    boxes = torch.tensor([[8.0, 8.0, 40.0, 40.0], [30.0, 20.0, 80.0, 60.0]])
    ground_truth = Instances(boxes, torch.tensor([1, 2]), torch.zeros(2, dtype=torch.bool))
    image = torch.randint(256, (3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch([image], [ground_truth], [Proposals(boxes + 2, torch.zeros(2))], [name], [1], [64])


class _NanOnBadImages(nn.Module):
    """Loss w^2, NaN for images named bad."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, batch: Batch) -> Losses:
        loss: Tensor = self.w.square().sum() * (math.nan if batch.image_ids == ["bad"] else 1.0)
        return Losses({"loss": Mean(loss, torch.tensor(1))}, {}, {})


def run(folder: Path, bad: set[int], policy: str, steps: int = 6) -> tuple[TrainingState, Outcome]:
    detector: Any = _NanOnBadImages()
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.1, momentum=0.9)
    state = TrainingState(
        detector=detector,
        optimizer=optimizer,
        schedule=torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        about={},
    )
    settings = LoopSettings(
        max_steps=steps, max_minutes=None, seed=1, precision="fp32", clip_norm=None, eval_every=0,
        checkpoint_every=2, keep_every=0, keep_newest=None, on_nonfinite=policy,
    )  # fmt: skip
    monitor = Monitor(folder / "tensorboard", first_step=0, max_steps=steps, log_every=2)

    def batches() -> Iterator[Batch]:
        for step in range(1, steps + 1):
            yield make_batch("bad" if step in bad else "good")

    try:
        outcome = train(
            state, batches(), settings, device=torch.device("cpu"), monitor=monitor, evaluate=lambda step: 0.0,
            checkpoints=folder / "checkpoints",
        )  # fmt: skip
    finally:
        monitor.close()
    return state, outcome


def weight(steps: int) -> float:
    w, velocity = 1.0, 0.0
    for _ in range(steps):
        velocity = 0.9 * velocity + 2 * w
        w -= 0.1 * velocity
    return w


def test_stop_names_the_images_and_writes_a_report(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError, match=r"step 4 \(loss nan\) on images bad: .*nonfinite_0000004_0"):
        run(tmp_path, {4}, "stop")
    report = json.loads((tmp_path / "nonfinite_0000004_0" / "report.json").read_text())
    assert (report["step"], report["last_good_step"], report["lr"]) == (4, 3, 0.1)
    assert report["losses"] == {"loss": "nan"}
    assert load_checkpoint(tmp_path)["step"] == 2


def test_skip_omits_the_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="detector"):
        state, outcome = run(tmp_path, {4}, "skip")
    assert (outcome, state.step) == (Outcome.done, 6)
    assert state.detector.w.item() == pytest.approx(weight(5), rel=1e-5)  # type: ignore[union-attr, operator]
    assert "step skipped (1 in a row)" in caplog.text


def test_rollback_loads_the_last_checkpoint_and_continues_with_the_next_images(tmp_path: Path) -> None:
    """Step 4 is bad: the weights return to those of step 2, and steps 5 and 6 follow."""
    state, outcome = run(tmp_path, {4}, "rollback")
    assert (outcome, state.step) == (Outcome.done, 6)
    assert state.detector.w.item() == pytest.approx(weight(4), rel=1e-5)  # type: ignore[union-attr, operator]
    assert state.schedule.last_epoch == 6


def test_rollback_without_a_checkpoint_stops(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError, match="no checkpoint yet"):
        run(tmp_path, {1}, "rollback")


def test_many_bad_steps_in_a_row_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError):
        run(tmp_path, set(range(2, 100)), "skip", steps=50)
    assert len(list(tmp_path.glob("nonfinite_*"))) == MOST_IN_A_ROW + 1


@pytest.fixture(scope="module")
def detector() -> Detector:
    config = load_config(["experiment=demo", "backbone.width=0.125", "backbone.tail_channels=32"])
    return build_detector(config, num_classes=3).train()


def with_fault(detector: Detector, batch: Batch, fault: str) -> Batch:
    """Damage the weights or the batch in one way. The caller restores the weights."""
    with torch.no_grad():
        if fault == "weights":
            detector.get_submodule("head.scores").weight.fill_(math.nan)  # type: ignore[union-attr, operator]
        if fault == "activations":
            detector.get_submodule("backbone.conv1").weight.mul_(1e30)  # type: ignore[union-attr, operator]
            detector.get_submodule("backbone.bn1").weight.mul_(1e30)  # type: ignore[union-attr, operator]
    if fault == "box":
        item = batch.instances[0]
        return replace(batch, instances=[replace(item, boxes=item.boxes * torch.tensor([1.0, 1.0, 0.0, 1.0]))])
    if fault == "proposals":
        return replace(batch, proposals=[Proposals(torch.full((2, 4), math.nan), torch.zeros(2))])
    return batch


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("weights", "the weights of head.scores.weight are already not finite.*lower optimizer.lr"),
        ("activations", "backbone.bn1 is the first layer|backbone.conv1 is the first layer"),
        ("box", "image a has boxes that are not finite or have no area; correct its annotation"),
        ("proposals", "image a has proposals that are not finite"),
    ],
)
def test_the_first_fault_is_named_as_the_cause(detector: Detector, tmp_path: Path, fault: str, cause: str) -> None:
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    batch = with_fault(detector, make_batch(), fault)
    try:
        message = write_postmortem(tmp_path, detector, batch, precision="fp32", about={"step": 1})
    finally:
        detector.load_state_dict(before)
    assert re.search(cause, message), message


def test_the_report_holds_every_layer_and_the_batch(detector: Detector, tmp_path: Path) -> None:
    write_postmortem(tmp_path, detector, make_batch(), precision="fp32", about={"step": 7})
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["images"][0]["boxes"] == [[8.0, 8.0, 40.0, 40.0], [30.0, 20.0, 80.0, 60.0]]
    assert report["weights"].keys() == {name for name, _ in detector.named_parameters()}
    assert report["gradients"].keys() == report["weights"].keys()
    assert report["activations"]["head.scores"]["not_finite"] == 0
    kept = torch.load(tmp_path / "batch.pt", weights_only=True)
    assert torch.equal(kept["images"][0], make_batch().images[0])
    assert all(parameter.grad is None for parameter in detector.parameters())
