"""A sweep: every combination in its own folder, one table of the outcomes, TensorBoard's hparams."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from detector.configs.compose import load_config
from detector.configs.errors import ConfigError
from detector.configs.groups import to_plain
from detector.engine.checkpoint import save_checkpoint
from detector.engine.errors import NonFiniteLossError
from detector.pipeline.run_folder import RunFolder
from detector.tools.settings.application import Task
from detector.tools.settings.command_line import read_line
from detector.tools.settings.sweep import run_sweep, table

METRICS = {"voc07_11point": {"mAP": 0.51234, "AP": {}}, "voc_area": {"mAP": None}, "minutes": 1.5, "step": 40000}


def fake_train(task: Task) -> int:
    """Write the metrics of a training."""
    task.folder.mkdir(parents=True, exist_ok=True)
    (task.folder / "metrics.json").write_text(json.dumps(METRICS))
    return 0


def run_with(command: Callable[[Task], int], folder: Path, *words: str) -> int:
    line = read_line(["--multirun", "experiment=demo", f"output_dir={folder}", *words])
    return run_sweep("train", line, command)


def test_every_combination_has_a_row_with_its_settings_and_results(tmp_path: Path) -> None:
    tasks: list[Task] = []

    def train(task: Task) -> int:
        tasks.append(task)
        return fake_train(task)

    assert run_with(train, tmp_path, "trainer.seed=1,2", "optimizer.lr=0.1,0.01", "trainer.workers=0") == 0
    assert [(task.config.trainer.seed, task.config.optimizer.lr) for task in tasks] == [
        (1, 0.1),
        (1, 0.01),
        (2, 0.1),
        (2, 0.01),
    ]
    assert [task.config.output_dir for task in tasks] == [str(tmp_path / str(number)) for number in range(4)]
    assert {(task.checkpoint, task.experiment) for task in tasks} == {(None, "demo")}
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
    run_with(fake_train, tmp_path, "trainer.seed=1,2")
    events = EventAccumulator(str(tmp_path / "1" / "tensorboard"))
    events.Reload()
    assert "_hparams_/session_start_info" in events.summary_metadata
    assert [event.value for event in events.Scalars("hparam/voc07_11point")] == [pytest.approx(0.51234)]


def test_a_failed_run_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def train(task: Task) -> int:
        if task.config.optimizer.lr == 9:
            raise NonFiniteLossError("the loss is not finite at step 2")
        if task.config.optimizer.lr == 0.2:
            raise OSError("the disk is gone")
        return fake_train(task)

    assert run_with(train, tmp_path, "optimizer.lr=9,0.1,0.2") == 4
    rows = json.loads((tmp_path / "summary.json").read_text())
    assert [row["outcome"] for row in rows] == ["loss not finite", "done", "failed"]
    assert "voc07_11point" not in rows[0]
    message = capsys.readouterr().err
    assert "error: the loss is not finite at step 2" in message
    assert "error: the disk is gone" in message
    assert "Traceback" not in message


def test_a_bug_keeps_its_traceback_and_is_recorded(tmp_path: Path) -> None:
    def train(task: Task) -> int:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        run_with(train, tmp_path, "trainer.seed=1,2")
    assert [row["outcome"] for row in json.loads((tmp_path / "summary.json").read_text())] == ["failed", "failed"]


def test_a_signal_ends_the_sweep(tmp_path: Path) -> None:
    assert run_with(lambda task: 3, tmp_path, "trainer.seed=1,2,3") == 3
    assert [row["outcome"] for row in json.loads((tmp_path / "summary.json").read_text())] == ["stopped"]


def test_a_smaller_sweep_in_the_same_folder_has_only_its_own_rows(tmp_path: Path) -> None:
    assert (
        run_with(lambda task: 3 if task.config.trainer.seed == 3 else fake_train(task), tmp_path, "trainer.seed=1,2,3")
        == 3
    )
    assert run_with(fake_train, tmp_path, "trainer.seed=1,2") == 0
    assert len(json.loads((tmp_path / "summary.json").read_text())) == 2


def test_resume_auto_resumes_each_run_in_its_folder(tmp_path: Path) -> None:
    tasks: list[Task] = []
    plain = to_plain(load_config(["experiment=demo"]))
    save_checkpoint(tmp_path / "1" / "checkpoints" / "last.pt", {"config": plain, "step": 5})

    def train(task: Task) -> int:
        tasks.append(task)
        return fake_train(task)

    assert run_with(train, tmp_path, "trainer.seed=1,2", "resume=auto") == 0
    assert [task.config.resume for task in tasks] == [None, str(tmp_path / "1")]
    assert tasks[1].checkpoint is not None
    assert tasks[1].checkpoint["step"] == 5
    with pytest.raises(ConfigError, match="to continue a sweep, give resume=auto"):
        run_with(train, tmp_path, "resume=runs/one")


def test_a_saved_config_can_be_swept(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").write_config(load_config(["experiment=demo", "trainer.max_steps=77"]))
    tasks: list[Task] = []

    def train(task: Task) -> int:
        tasks.append(task)
        return fake_train(task)

    words = ["-m", f"config={tmp_path / 'run'}", "head=fast_rcnn,rfcn", f"output_dir={tmp_path / 'sweep'}"]
    assert run_sweep("train", read_line(words), train) == 0
    assert [(task.config.head.kind, task.config.trainer.max_steps) for task in tasks] == [
        ("fast_rcnn", 77),
        ("rfcn", 77),
    ]


def test_an_invalid_combination_is_refused_before_any_run(tmp_path: Path) -> None:
    def train(task: Task) -> int:
        raise AssertionError("nothing may run")

    with pytest.raises(ConfigError, match="trainer.images_per_step is 0"):
        run_with(train, tmp_path, "trainer.images_per_step=2,0")
    with pytest.raises(ConfigError, match="both name the sweep's folder"):
        run_with(train, tmp_path, "trainer.seed=1,2", "hydra.sweep.dir=x")
    assert list(tmp_path.iterdir()) == []


def test_numbers_are_right_aligned_and_missing_values_are_dashes() -> None:
    message = table([{"run": "0", "mAP": 0.5, "step": 7}, {"run": "10", "step": 4000}])
    assert message.splitlines() == ["run  mAP  step", "0    0.5     7", "10     -  4000"]
