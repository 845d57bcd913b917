"""Hydra's launchers and its Optuna sweeper, with tiny trainings. They need the extra `sweep`."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from detector.tools import cli
from tests.joblib_workers import end_joblib_workers
from tests.tools.tiny_run import TINY

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(autouse=True)
def _end_workers() -> Iterator[None]:
    yield
    end_joblib_workers()


def rows_of(folder: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads((folder / "summary.json").read_text())
    return rows


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        ("hydra_joblib_launcher", ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]),
        ("hydra_submitit_launcher", ["hydra/launcher=submitit_local"]),
    ],
)
def test_runs_in_separate_processes(plugin: str, words: list[str], tmp_path: Path) -> None:
    pytest.importorskip(f"hydra_plugins.{plugin}")
    lines = ["optimizer.lr=0.01,0.02,1e30", "trainer.max_steps=3", "optimizer.clip_norm=null"]
    code = cli.run(["train", "-m", *words, *TINY, *lines, "schedule.warmup_steps=0", f"output_dir={tmp_path / 'a, b'}"])
    rows = rows_of(tmp_path / "a, b")
    assert code == 4
    assert [row["outcome"] for row in rows] == ["done", "done", "loss not finite"]
    assert [row["optimizer.lr"] for row in rows] == ["0.01", "0.02", "1e+30"]


def test_optuna_maximises_the_map(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    search = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1"]
    words = [*TINY, "dataset.train=8", "trainer.max_steps=60", "optimizer.lr=interval(0.001,0.05)"]
    assert cli.run(["train", "-m", *search, *words, f"output_dir={tmp_path}"]) == 0
    rows = rows_of(tmp_path)
    found = yaml.safe_load((tmp_path / "optimization_results.yaml").read_text())
    assert len(rows) == 3
    assert found["best_value"] == pytest.approx(max(row["voc07_11point"] for row in rows))
