"""Checkpoints: complete or absent, loaded without running code, refused with a reason."""

import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import pytest
import torch
from torch import nn

from detector.engine import checkpoint
from detector.engine.checkpoint import (
    load_checkpoint,
    load_weights,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    write_atomically,
)
from detector.pipeline.versions import versions

CONTENT = {"step": 7, "best": 0.5, "classes": ["a", "b"], "model": {"w": torch.arange(6.0).reshape(2, 3)}}


def test_a_saved_checkpoint_loads_unchanged(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "deep" / "last.pt", CONTENT)
    loaded = load_checkpoint(tmp_path / "deep" / "last.pt")
    assert {key: loaded[key] for key in ("step", "best", "classes")} == {"step": 7, "best": 0.5, "classes": ["a", "b"]}
    assert torch.equal(loaded["model"]["w"], CONTENT["model"]["w"])  # type: ignore[index]


def test_the_versions_of_a_run_can_be_loaded(tmp_path: Path) -> None:
    """torch.__version__ is not a plain string, and numpy's numbers are not plain numbers. Neither may be saved."""
    save_checkpoint(tmp_path / "last.pt", {**CONTENT, "versions": versions()})
    assert load_checkpoint(tmp_path / "last.pt")["versions"] == versions()


def test_a_run_folder_loads_its_last_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoints" / "last.pt", CONTENT)
    assert load_checkpoint(tmp_path)["step"] == 7


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"last\.pt, found no such file; give a \.pt file or a run's folder"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("size", [0, 1, 100, 0.5, 0.99])
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, size: float) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, CONTENT)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(size * len(whole)) if 0 < size < 1 else int(size)])
    with pytest.raises(ValueError, match="is damaged or not a checkpoint") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_flip_of_any_single_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, CONTENT)
    whole = path.read_bytes()
    ends = {*range(80), *range(len(whole) - 80, len(whole))}
    for place in sorted(ends | set(range(0, len(whole), 7))):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="is damaged or not a checkpoint"):
            load_checkpoint(path)


@pytest.mark.parametrize("tenth", range(10))
def test_a_truncated_file_is_refused(tenth: int, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {**CONTENT, "model": {"w": torch.rand(10_000)}})
    os.truncate(path, path.stat().st_size * tenth // 10)
    with pytest.raises(ValueError, match="is damaged or not a checkpoint"):
        load_checkpoint(path)


def test_inserted_or_appended_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, CONTENT)
    whole = path.read_bytes()
    for changed in (whole + b"x", whole[:500] + b"x" + whole[500:], whole + whole):
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="is damaged or not a checkpoint"):
            load_checkpoint(path)


def test_a_checkpoint_of_the_format_before_checksums_is_read(tmp_path: Path) -> None:
    torch.save({**CONTENT, "format": 1}, tmp_path / "old.pt")
    assert load_checkpoint(tmp_path / "old.pt")["step"] == 7


def test_changed_bytes_without_a_checksum_raise_nothing_but_value_errors(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save({"step": 7, "model": {"weight": torch.ones(2)}, "config": {"a": [1, "b"]}, "format": 1}, path)
    whole = path.read_bytes()
    for at in range(0, len(whole), 5):
        for change in (0x01, 0xFF):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ change]) + whole[at + 1 :])
            with suppress(ValueError):
                load_checkpoint(path)


def save_at(path: Path, step: int, age: int) -> Path:
    """Save a checkpoint whose file is `age` seconds old."""
    save_checkpoint(path, {**CONTENT, "step": step})
    written = path.stat().st_mtime - age
    os.utime(path, (written, written))
    return path


def test_the_newest_intact_checkpoint_is_found_and_damaged_ones_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "checkpoints"
    assert newest_checkpoint(tmp_path) is None
    save_at(folder / "step_0000002.pt", 2, age=30)
    middle = save_at(folder / "step_0000004.pt", 4, age=20)
    last = save_at(folder / "last.pt", 6, age=10)
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert (found[0], found[1]["step"]) == (last, 6)
    times = last.stat().st_atime, last.stat().st_mtime
    last.write_bytes(last.read_bytes()[:-100])
    os.utime(last, times)
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert (found[0], found[1]["step"]) == (middle, 4)
    assert f"skipped: {last} is damaged" in caplog.text


def test_a_folder_with_only_damaged_checkpoints_is_refused(tmp_path: Path) -> None:
    for name in ("last.pt", "best.pt"):
        save_at(tmp_path / "checkpoints" / name, 1, age=0).write_bytes(b"PK")
    with pytest.raises(ValueError, match="all 2 checkpoints in .* are damaged"):
        newest_checkpoint(tmp_path)


@pytest.mark.parametrize(("keep", "left"), [(None, [1, 2, 3]), (2, [2, 3]), (5, [1, 2, 3]), (0, [])])
def test_pruning_keeps_the_newest_numbered_checkpoints(keep: int | None, left: list[int], tmp_path: Path) -> None:
    for name in ("last.pt", "best.pt", *(f"step_{step:07d}.pt" for step in (1, 2, 3))):
        (tmp_path / name).touch()
    prune_checkpoints(tmp_path, keep)
    expected = {"last.pt", "best.pt", *(f"step_{step:07d}.pt" for step in left)}
    assert {path.name for path in tmp_path.iterdir()} == expected


def test_a_file_that_is_not_a_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"w": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="is not a checkpoint of a run; give a run's folder"):
        load_checkpoint(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="found 'list'"):
        load_checkpoint(path)


class _Executes:
    """A pickle that would run a command when loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    torch.save({"format": 1, "model": _Executes(tmp_path / "executed")}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="not only tensors and plain values") as caught:
        load_checkpoint(tmp_path / "last.pt")
    assert not (tmp_path / "executed").exists()
    assert "weights_only" not in str(caught.value)


def test_a_failed_write_leaves_the_old_file_and_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(b"old")

    def write_half(file: IO[bytes]) -> None:
        file.write(b"new")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, write_half)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("room", [0, 1, 1000, 5000])
def test_a_full_disk_leaves_the_previous_checkpoint_intact(room: int, tmp_path: Path) -> None:
    """RLIMIT_FSIZE simulates the full disk: a write beyond it fails in the same way."""
    path = tmp_path / "last.pt"
    save_checkpoint(path, CONTENT)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(OSError, match="cannot write the checkpoint .*: File too large; the previous checkpoint is"):
            save_checkpoint(path, {**CONTENT, "step": 8, "model": {"w": torch.rand(5000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert load_checkpoint(path)["step"] == 7
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")]
)
@pytest.mark.parametrize("number", [0, 3])
def test_an_error_raised_by_a_signal_while_writing_stays(
    number: int, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch replaces it by an error of its own; without it nobody would learn that a loader's worker died."""
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"step": 1})
    real, calls = checkpoint._Summed.write, iter(range(1000))

    def write(summed: checkpoint._Summed, data: bytes) -> int:
        if next(calls) == number:
            raise error
        return real(summed, data)

    monkeypatch.setattr(checkpoint._Summed, "write", write)
    with pytest.raises(type(error)) as caught:
        save_checkpoint(path, {"step": 2, "model": {"weight": torch.ones(1000)}})
    assert caught.value is error
    assert load_checkpoint(path)["step"] == 1


def test_a_failed_first_write_does_not_speak_of_a_previous_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot write the checkpoint .*last.pt: [^;]*$"):
        save_checkpoint(tmp_path / "file" / "last.pt", CONTENT)


def test_killing_the_writer_leaves_an_intact_file(tmp_path: Path) -> None:
    """A process that only saves is stopped at ten moments, then killed."""
    path = tmp_path / "last.pt"
    program = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from detector.engine.checkpoint import save_checkpoint\n"
        "torch.set_num_threads(1)\n"
        "step = 0\n"
        "while True:\n"
        "    step += 1\n"
        "    weights = torch.full((200_000,), float(step))\n"
        "    save_checkpoint(Path(sys.argv[1]), {'step': step, 'model': {'w': weights}})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(path)])
    try:
        seen = []
        while not path.is_file():
            assert process.poll() is None
            time.sleep(0.02)
        for moment in range(10):
            time.sleep(0.011 * (1 + moment % 3))
            process.send_signal(signal.SIGSTOP)  # the disk is now in the state that a kill would leave
            loaded = load_checkpoint(path)
            assert (loaded["model"]["w"] == loaded["step"]).all()
            seen.append(loaded["step"])
            process.send_signal(signal.SIGCONT)
    finally:
        process.kill()
        process.wait()
    assert (load_checkpoint(path)["model"]["w"] >= seen[-1]).all()
    assert len(set(seen)) > 1


def test_weights_that_do_not_fit_are_named() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    weights = module.state_dict()
    other = {**weights, "0.weight": torch.zeros(5, 2), "9.weight": torch.zeros(1)}
    del other["1.bias"]
    with pytest.raises(ValueError, match="model.pt does not fit this model") as caught:
        load_weights(module, other, "model.pt")
    for part in (
        "1 missing (first: 1.bias)",
        "1 unknown (first: 9.weight)",
        "0.weight: (5, 2) in the file, (3, 2) here",
    ):
        assert part in str(caught.value)


def test_weights_under_skipped_names_are_not_loaded() -> None:
    source = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    target = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 5))
    own = target[1].weight.detach().clone()
    with pytest.raises(ValueError, match=r"weights=model.pt weights_skip=\[1\]"):
        load_weights(target, source.state_dict(), "model.pt")
    load_weights(target, source.state_dict(), "model.pt", skip=["1"])
    assert torch.equal(target[0].weight, source[0].weight)
    assert torch.equal(target[1].weight, own)
    with pytest.raises(ValueError, match="weights_skip has 'heads'; expected one of 0, 1, or a module inside one"):
        load_weights(target, source.state_dict(), "model.pt", skip=["heads"])


def test_weights_that_fit_are_loaded() -> None:
    source, target = nn.Linear(2, 3), nn.Linear(2, 3)
    load_weights(target, source.state_dict(), "model.pt")
    assert torch.equal(target.weight, source.weight)
