"""The training loop on a detector with one parameter: order of events, saved files, and end."""

import logging
import math
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detector.engine import checkpoint, trainer
from detector.engine.checkpoint import load_checkpoint
from detector.engine.errors import NonFiniteLossError
from detector.engine.monitor import Monitor
from detector.engine.trainer import LoopSettings, Outcome, TrainingState, train
from detector.structures import Batch, Instances, Losses, Mean

SETTINGS = {
    "max_steps": 6,
    "max_minutes": None,
    "seed": 3,
    "precision": "fp32",
    "clip_norm": None,
    "eval_every": 0,
    "checkpoint_every": 0,
    "keep_every": 0,
    "keep_newest": None,
}


class _OneParameter(nn.Module):
    """Loss (w - 1)^2. Draws one random number per step."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))
        self.drawn: list[float] = []
        self.scale = 1.0

    def forward(self, batch: Batch) -> Losses:
        self.drawn.append(torch.rand(1).item())
        loss: Tensor = self.scale * (self.w - 1).square().sum()
        one = torch.tensor(1)
        return Losses({"loss_a": Mean(loss, one), "loss_b": Mean(0 * loss, one)}, {}, {"count": torch.tensor(5)})


def make_state() -> TrainingState:
    detector = _OneParameter()
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step < 3 else 0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return TrainingState(
        detector=detector, optimizer=optimizer, schedule=schedule, scaler=scaler, about={"classes": ["a"]}
    )


def batches(count: int = 100) -> Iterator[Batch]:
    nothing = Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    for index in range(count):
        yield Batch([torch.zeros(3, 4, 4, dtype=torch.uint8)], [nothing], None, [f"image_{index}"], [index], [4])


def run(
    folder: Path,
    state: TrainingState,
    evaluate: Callable[[int], float] = lambda step: 0.5,
    source: Iterator[Batch] | None = None,
    **changes: Any,
) -> Outcome:
    settings = LoopSettings(**{**SETTINGS, **changes})
    monitor = Monitor(folder / "tensorboard", first_step=state.step, max_steps=settings.max_steps, log_every=2)
    try:
        return train(
            state,
            source or batches(),
            settings,
            device=torch.device("cpu"),
            monitor=monitor,
            evaluate=evaluate,
            checkpoints=folder / "checkpoints",
        )
    finally:
        monitor.close()


def saved(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").iterdir()}


def test_the_last_step_is_evaluated_and_saved(tmp_path: Path) -> None:
    state, evaluated = make_state(), []
    assert run(tmp_path, state, lambda step: evaluated.append(step) or 0.5) is Outcome.done  # type: ignore[func-returns-value]
    assert (state.step, evaluated, saved(tmp_path)) == (6, [6], {"last.pt", "best.pt"})
    assert load_checkpoint(tmp_path)["step"] == 6
    assert load_checkpoint(tmp_path)["best"] == 0.5


def test_the_steps_equal_those_of_the_optimizer(tmp_path: Path) -> None:
    """SGD with momentum on (w - 1)^2; after three steps the rate is divided by 10."""
    state = make_state()
    run(tmp_path, state)
    w = velocity = 0.0
    for step in range(6):
        velocity = 0.9 * velocity + 2 * (w - 1)
        w -= (0.1 if step < 3 else 0.01) * velocity
    assert state.detector.w.item() == pytest.approx(w, rel=1e-5)  # type: ignore[union-attr, operator]


def test_gradients_are_clipped_by_norm(tmp_path: Path) -> None:
    state = make_state()
    run(tmp_path, state, max_steps=1, clip_norm=0.5)
    assert state.detector.w.item() == pytest.approx(0.1 * 0.5, rel=1e-4)  # type: ignore[union-attr, operator]


def test_the_best_checkpoint_has_the_best_score(tmp_path: Path) -> None:
    scores = {2: 0.3, 4: 0.8, 6: 0.6}
    run(tmp_path, make_state(), scores.__getitem__, eval_every=2)
    best = load_checkpoint(tmp_path / "checkpoints" / "best.pt")
    assert (best["step"], best["best"]) == (4, 0.8)
    assert load_checkpoint(tmp_path)["best"] == 0.8


def test_a_run_killed_after_an_evaluation_keeps_the_best_score(tmp_path: Path) -> None:
    def killed_later(source: Iterator[Batch]) -> Iterator[Batch]:
        for index, batch in enumerate(source):
            if index == 3:
                raise KeyboardInterrupt
            yield batch

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, make_state(), source=killed_later(batches()), eval_every=2)
    assert load_checkpoint(tmp_path)["step"] == 2
    assert load_checkpoint(tmp_path)["best"] == 0.5


def test_an_evaluation_that_a_kill_interrupted_is_done_on_resuming(tmp_path: Path) -> None:
    def killed(step: int) -> float:
        if step == 4:
            raise KeyboardInterrupt
        return 0.5

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, make_state(), killed, eval_every=2)
    state, evaluated = make_state(), []
    state.load(load_checkpoint(tmp_path), "here")
    run(tmp_path, state, lambda step: evaluated.append(step) or step / 10, eval_every=2)  # type: ignore[func-returns-value]
    assert evaluated == [4, 6]
    assert (state.best, state.stale, state.evaluated_step) == (0.6, 0, 6)


def test_a_failed_evaluation_loses_no_steps(tmp_path: Path) -> None:
    def fails(step: int) -> float:
        raise RuntimeError("no space for pictures")

    with pytest.raises(RuntimeError):
        run(tmp_path, make_state(), fails, eval_every=4)
    assert load_checkpoint(tmp_path)["step"] == 4


def test_numbered_checkpoints_are_kept_every_n_steps(tmp_path: Path) -> None:
    run(tmp_path, make_state(), keep_every=2)
    assert saved(tmp_path) == {"last.pt", "best.pt", "step_0000002.pt", "step_0000004.pt", "step_0000006.pt"}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signal_saves_at_the_next_step(tmp_path: Path, name: str) -> None:
    def with_signal(source: Iterator[Batch]) -> Iterator[Batch]:
        for index, batch in enumerate(source):
            if index == 2:
                os.kill(os.getpid(), getattr(signal, name))
            yield batch

    assert run(tmp_path, make_state(), source=with_signal(batches())) is Outcome.interrupted
    assert load_checkpoint(tmp_path)["step"] == 3
    assert saved(tmp_path) == {"last.pt"}


@pytest.mark.parametrize(("name", "at", "eval_every"), [("SIGINT", 6, 0), ("SIGTERM", 6, 2), ("SIGINT", 4, 2)])
def test_a_signal_stops_an_evaluation_at_once_and_resuming_repeats_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, at: int, eval_every: int
) -> None:
    completed = []

    def stopped(step: int) -> float:
        if step == at:
            os.kill(os.getpid(), getattr(signal, name))
        completed.append(step)
        return 0.5

    with caplog.at_level(logging.INFO, logger="detector"):
        assert run(tmp_path, make_state(), stopped, eval_every=eval_every) is Outcome.interrupted
    before = [step for step in (2, 4) if eval_every and step < at]
    assert completed == before
    assert caplog.messages[-1] == (
        f"{name}: saved step {at} to {tmp_path / 'checkpoints' / 'last.pt'}; for its scores, and the report of a "
        f"planned run: detector train resume={tmp_path}"
    )
    state = make_state()
    state.load(load_checkpoint(tmp_path), "here")
    assert run(tmp_path, state, lambda step: completed.append(step) or 0.5, eval_every=eval_every) is Outcome.done  # type: ignore[func-returns-value]
    assert completed == ([2, 4, 6] if eval_every else [6])


def test_a_signal_in_the_repeated_evaluation_ends_it_too(tmp_path: Path) -> None:
    state = make_state()
    state.step = 6
    assert run(tmp_path, state, lambda step: os.kill(os.getpid(), signal.SIGINT) or 0.5) is Outcome.interrupted  # type: ignore[func-returns-value]
    assert saved(tmp_path) == {"last.pt"}


def test_a_signal_in_the_last_step_leaves_the_evaluation_to_the_resumed_run(tmp_path: Path) -> None:
    def with_signal(source: Iterator[Batch]) -> Iterator[Batch]:
        for index, batch in enumerate(source):
            if index == 5:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    evaluated: list[int] = []
    outcome = run(tmp_path, make_state(), lambda step: evaluated.append(step) or 0.5, with_signal(batches()))  # type: ignore[func-returns-value]
    assert (outcome, evaluated) == (Outcome.interrupted, [])
    assert load_checkpoint(tmp_path)["step"] == 6


def test_a_resumed_run_equals_a_whole_run_bit_for_bit(tmp_path: Path) -> None:
    whole, first, second = make_state(), make_state(), make_state()
    run(tmp_path / "whole", whole)
    run(tmp_path / "parts", first, max_steps=3)
    second.load(load_checkpoint(tmp_path / "parts"), "parts")
    run(tmp_path / "parts", second)
    assert torch.equal(whole.detector.w, second.detector.w)  # type: ignore[arg-type]
    drawn = [*first.detector.drawn, *second.detector.drawn]  # type: ignore[misc, union-attr]
    assert drawn == whole.detector.drawn


def test_a_finished_run_is_only_evaluated(tmp_path: Path) -> None:
    state, evaluated = make_state(), []
    state.step = 6
    assert run(tmp_path, state, lambda step: evaluated.append(step) or 0.5) is Outcome.done  # type: ignore[func-returns-value]
    assert (evaluated, state.detector.drawn) == ([6], [])
    assert saved(tmp_path) == {"last.pt", "best.pt"}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(tmp_path: Path, value: float) -> None:
    state = make_state()
    state.detector.scale = value  # type: ignore[assignment]
    with pytest.raises(
        NonFiniteLossError, match=r"step 1 \(loss_a (nan|inf), loss_b nan\) on images image_0"
    ) as caught:
        run(tmp_path, state)
    assert "lower optimizer.lr" in str(caught.value)
    assert state.detector.w.item() == 0  # type: ignore[union-attr, operator]


def test_a_run_at_the_time_limit_is_saved_and_evaluated(tmp_path: Path) -> None:
    state = make_state()
    assert run(tmp_path, state, max_minutes=1e-9) is Outcome.done
    assert state.step == 1
    assert saved(tmp_path) == {"last.pt", "best.pt"}


def test_state_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    run(tmp_path, make_state())
    content = load_checkpoint(tmp_path)
    content["model"] = {"v": torch.zeros(1)}
    with pytest.raises(ValueError, match="runs/x does not fit this model"):
        make_state().load(content, "runs/x")


def test_another_optimizer_is_refused(tmp_path: Path) -> None:
    run(tmp_path, make_state())
    adam, parts = make_state(), make_state()
    adam.optimizer = torch.optim.AdamW(adam.detector.parameters())
    parts.optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)]})
    for state, reason in ((adam, "it is of another kind"), (parts, "different number of parameter groups")):
        with pytest.raises(ValueError, match=f"resume=runs/x: the run's optimizer does not fit .*{reason}"):
            state.load(load_checkpoint(tmp_path), "runs/x")


def test_the_log_holds_the_means_since_the_last_logging_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="detector"):
        run(tmp_path, make_state())
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("step ")]
    assert [line.split(":")[0] for line in lines] == ["step 2", "step 4", "step 6"]
    first = (1.0 + (1 - 0.2) ** 2) / 2  # the means of two steps
    assert f"loss {first:.3f} " in lines[0]
    assert "loss_a" in lines[0]
    assert "count 5" in lines[0]


def test_a_run_stops_early_without_improvement(tmp_path: Path) -> None:
    """The scores of steps 2 and 3 are no better than that of step 1. A resumed run keeps the count."""
    evaluated: list[int] = []
    state = make_state()

    def evaluate(step: int) -> float:
        evaluated.append(step)
        return 0.5

    assert run(tmp_path, state, evaluate, eval_every=1, patience=2, max_steps=50) is Outcome.done
    assert (state.step, evaluated, state.stale) == (3, [1, 2, 3], 2)
    resumed = make_state()
    resumed.load(load_checkpoint(tmp_path), "last")
    assert run(tmp_path, resumed, evaluate, eval_every=1, patience=2, max_steps=50) is Outcome.done
    assert resumed.step == 3


LIFE = {"eval_every": 2, "checkpoint_every": 1, "keep_every": 2, "keep_newest": 2, "patience": 2, "max_steps": 9}
BEST_AT_2 = {2: 0.5, 4: 0.4, 6: 0.3, 8: 0.9, 9: 0.9}  # patience ends the run at step 6


class Killed(BaseException):
    """Simulates SIGKILL: nothing in the loop handles it."""


def count_writes(monkeypatch: pytest.MonkeyPatch, dies_after: int | None = None) -> list[str]:
    """Return a list that collects the next saves and prunings. Raise Killed after `dies_after` of them."""
    done: list[str] = []

    def counted(name: str, call: Callable[..., None]) -> Callable[..., None]:
        def wrapper(path: Path, *rest: Any) -> None:
            call(path, *rest)
            done.append(f"{name} {path.name}")
            if len(done) == dies_after:
                raise Killed

        return wrapper

    for name in ("save_checkpoint", "prune_checkpoints"):
        monkeypatch.setattr(trainer, name, counted(name, getattr(checkpoint, name)))
    return done


@pytest.mark.parametrize("newest", [True, False], ids=["resume=auto", "resume=FOLDER"])
@pytest.mark.parametrize("patience", [2, None])
def test_a_run_killed_after_any_write_resumes_to_the_files_of_an_undisturbed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int | None, newest: bool
) -> None:
    """Also after an evaluation's first save, before the numbered checkpoint of that step, and before pruning."""
    life = {**LIFE, "patience": patience}
    whole = make_state()
    writes = count_writes(monkeypatch)
    assert run(tmp_path / "whole", whole, BEST_AT_2.__getitem__, **life) is Outcome.done
    assert whole.step == (6 if patience else 9)
    assert "save_checkpoint step_0000004.pt" in writes
    number = len(writes)
    for dies_after in range(1, number + 1):
        folder = tmp_path / f"{dies_after}"
        count_writes(monkeypatch, dies_after)
        with pytest.raises(Killed):
            run(folder, make_state(), BEST_AT_2.__getitem__, **life)
        count_writes(monkeypatch)
        state = make_state()
        found = checkpoint.newest_checkpoint(folder) if newest else (folder, load_checkpoint(folder))
        assert found is not None
        state.load(found[1], "here")
        run(folder, state, BEST_AT_2.__getitem__, source=batches(), **life)
        assert saved(folder) == saved(tmp_path / "whole"), writes[dies_after - 1]
        for name in saved(folder):
            expected, content = (load_checkpoint(at / "checkpoints" / name) for at in (tmp_path / "whole", folder))
            assert content == expected, (name, writes[dies_after - 1])
