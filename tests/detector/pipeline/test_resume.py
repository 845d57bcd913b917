"""The start of a `detector train` line: a new run, a saved config, a run, or the newest intact checkpoint."""

from pathlib import Path
from typing import Any

import pytest

from detector.configs.compose import load_config
from detector.configs.errors import ConfigError
from detector.configs.groups import to_plain
from detector.engine.checkpoint import save_checkpoint
from detector.pipeline.resume import find_start, with_own_split
from detector.pipeline.run_folder import RunFolder

DEMO = ["experiment=demo", "trainer.max_steps=77"]


def save_run(folder: Path, step: int, *overrides: str) -> None:
    config = to_plain(load_config([*DEMO, *overrides]))
    save_checkpoint(folder / "checkpoints" / "last.pt", {"config": config, "step": step})


def test_a_line_without_resume_or_config_is_a_new_run() -> None:
    start = find_start(DEMO)
    assert (start.config, start.checkpoint) == (load_config(DEMO), None)


def test_a_resumed_run_keeps_its_settings_and_takes_the_overrides(tmp_path: Path) -> None:
    save_run(tmp_path, 5)
    start = find_start([f"resume={tmp_path}", "trainer.log_every=3"])
    assert start.checkpoint is not None
    assert start.checkpoint["step"] == 5
    assert (start.config.output_dir, start.config.trainer.max_steps) == (str(tmp_path), 77)
    assert start.config.trainer.log_every == 3


def test_one_line_with_auto_starts_a_run_and_later_resumes_it(tmp_path: Path) -> None:
    words = [*DEMO, f"output_dir={tmp_path / 'run'}", "resume=auto"]
    first = find_start(words)
    assert first.checkpoint is None
    save_run(tmp_path / "run", 5)
    second = find_start(words)
    assert second.checkpoint is not None
    assert second.checkpoint["step"] == 5
    for part in ("dataset", "backbone", "optimizer", "trainer"):
        assert getattr(first.config, part) == getattr(second.config, part)


def test_auto_without_a_folder_resumes_the_newest_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_run(Path("runs/old"), 50)
    save_run(Path("runs/sweep/1"), 5, "trainer.seed=9")
    start = find_start(["resume=auto", "trainer.workers=0"])
    assert (start.config.output_dir, start.config.trainer.seed, start.config.trainer.workers) == ("runs/sweep/1", 9, 0)


def test_auto_skips_damaged_checkpoints(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_run(tmp_path, 5)
    last = tmp_path / "checkpoints" / "last.pt"
    kept = last.rename(last.with_name("step_0000005.pt"))
    last.write_bytes(kept.read_bytes()[:-1])
    start = find_start([f"output_dir={tmp_path}", "resume=auto"])
    assert start.checkpoint is not None
    assert f"skipped: {last} is damaged" in caplog.text
    assert f"resuming from {kept}, step 5" in caplog.text


def test_auto_without_a_checkpoint_needs_a_dataset_or_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no checkpoint in runs; to start a new run, give dataset= or experiment="):
        find_start(["resume=auto"])


def test_a_saved_config_repeats_a_run_in_a_new_folder(tmp_path: Path) -> None:
    RunFolder(tmp_path).write_config(load_config([*DEMO, f"output_dir={tmp_path}"]))
    for given in (tmp_path / "config.yaml", tmp_path):
        start = find_start([f"config={given}", "trainer.seed=4"])
        assert start.checkpoint is None
        assert start.config == load_config([*DEMO, "trainer.seed=4"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read .No such file or directory."),
        ("a: [", "cannot be read"),
        ("a: 1", "expected the settings of a whole run, with dataset, backbone"),
        ("[1]", "expected the settings of a whole run"),
        ("text", "expected the settings of a whole run|cannot be read"),
    ],
)
def test_a_file_that_is_not_a_saved_config_is_refused(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        find_start([f"config={tmp_path / 'config.yaml'}"])
    assert "\n" not in str(caught.value)


def test_an_unknown_key_in_a_saved_config_is_named(tmp_path: Path) -> None:
    text = RunFolder(tmp_path).write_config(load_config(DEMO))
    (tmp_path / "config.yaml").write_text(text.replace("max_steps:", "max_stepz:"))
    with pytest.raises(ConfigError, match="max_stepz: no such setting; did you mean trainer.max_steps?"):
        find_start([f"config={tmp_path}"])


def test_resume_and_config_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected resume= or config=, got both"):
        find_start(["resume=runs/a", "config=runs/b"])
    RunFolder(tmp_path).write_config(load_config(DEMO))
    with pytest.raises(ConfigError, match="experiment=demo: a saved run already has settings"):
        find_start([f"config={tmp_path}", "experiment=demo"])


def test_the_split_of_a_moved_run_is_found(tmp_path: Path) -> None:
    saved: dict[str, Any] = {"dataset": {"split_file": "runs/before/split.json"}}
    assert with_own_split(saved, tmp_path) == saved
    (tmp_path / "split.json").write_text("{}")
    assert with_own_split(saved, tmp_path) == {"dataset": {"split_file": str(tmp_path / "split.json")}}
    for other in ({"dataset": {"split_file": None}}, {"dataset": {}}):
        assert with_own_split(other, tmp_path) == other
