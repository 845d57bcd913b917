"""A sweep: every combination in its own folder, one table of how they ended, TensorBoard's hparams."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from detector.configs.compose import sweep
from detector.configs.errors import ConfigError
from detector.pipeline.resume import value_of
from detector.tools.settings.sweep import run_sweep, table

METRICS = {"voc07_11point": {"mAP": 0.51234, "AP": {}}, "voc_area": {"mAP": None}, "minutes": 1.5, "step": 40000}


def words_of(folder: Path, *overrides: str) -> list[list[str]]:
    return sweep(["experiment=demo", f"output_dir={folder}", *overrides])


def trained(job: list[str]) -> Path:
    """Leaves what a training would leave, and returns its folder."""
    folder = Path(value_of("output_dir", job) or "")
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    return folder


def test_every_combination_has_a_row_of_what_was_varied_and_what_came_of_it(tmp_path: Path) -> None:
    jobs: list[list[str]] = []

    def train(job: list[str]) -> int:
        jobs.append(job)
        trained(job)
        return 0

    assert run_sweep(words_of(tmp_path, "trainer.seed=1,2", "optimizer.lr=0.1,0.01"), train) == 0
    assert len(jobs) == 4
    rows = json.loads((tmp_path / "summary.json").read_text())
    assert [(row["trainer.seed"], row["optimizer.lr"]) for row in rows] == [
        ("1", "0.1"),
        ("1", "0.01"),
        ("2", "0.1"),
        ("2", "0.01"),
    ]
    assert all(row["outcome"] == "done" and row["voc07_11point"] == 0.51234 for row in rows)
    assert all("experiment" not in row and "output_dir" not in row for row in rows)
    lines = (tmp_path / "summary.txt").read_text().splitlines()
    assert lines[0].split() == ["run", "trainer.seed", "optimizer.lr", "outcome", "voc07_11point", "minutes", "step"]
    assert lines[1].split() == ["0", "1", "0.1", "done", "0.5123", "1.5", "40000"]
    assert len({len(line) for line in lines}) == 1  # aligned


def test_tensorboard_gets_hparams(tmp_path: Path) -> None:
    run_sweep(words_of(tmp_path, "trainer.seed=1,2"), lambda job: 0 if trained(job) else 1)
    events = EventAccumulator(str(tmp_path / "1" / "tensorboard"))
    events.Reload()
    assert "_hparams_/session_start_info" in events.summary_metadata
    assert [event.value for event in events.Scalars("hparam/voc07_11point")] == [pytest.approx(0.51234)]


def test_one_that_fails_does_not_keep_the_others_from_running(tmp_path: Path) -> None:
    codes = iter([4, 0, 1])

    def train(job: list[str]) -> int:
        trained(job)
        return next(codes)

    assert run_sweep(words_of(tmp_path, "optimizer.lr=9,0.1,0.2"), train) == 4
    rows = json.loads((tmp_path / "summary.json").read_text())
    assert [row["outcome"] for row in rows] == ["loss not finite", "done", "failed"]
    assert "voc07_11point" not in rows[0]


def test_a_signal_ends_the_sweep(tmp_path: Path) -> None:
    assert run_sweep(words_of(tmp_path, "trainer.seed=1,2,3"), lambda job: 3) == 3
    assert [row["outcome"] for row in json.loads((tmp_path / "summary.json").read_text())] == ["stopped"]


def test_a_combination_that_cannot_be_is_refused_before_any_runs(tmp_path: Path) -> None:
    def train(job: list[str]) -> int:
        raise AssertionError("nothing may run")

    with pytest.raises(ConfigError, match="trainer.images_per_step is 0"):
        run_sweep(words_of(tmp_path, "trainer.images_per_step=2,0"), train)
    assert list(tmp_path.iterdir()) == []


def test_numbers_stand_to_the_right_and_what_is_missing_is_a_dash() -> None:
    told = table([{"run": "0", "mAP": 0.5, "step": 7}, {"run": "10", "step": 4000}])
    assert told.splitlines() == ["run  mAP  step", "0    0.5     7", "10     -  4000"]
