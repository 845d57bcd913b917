"""Checkpoints: whole or not there, loaded without running anything, refused with a reason."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest
import torch
from torch import nn

from detector.engine.checkpoint import load_checkpoint, load_weights, save_checkpoint, write_atomically
from detector.tools.run import versions

CONTENT = {"step": 7, "best": 0.5, "classes": ["a", "b"], "model": {"w": torch.arange(6.0).reshape(2, 3)}}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "deep" / "last.pt", CONTENT)
    loaded = load_checkpoint(tmp_path / "deep" / "last.pt")
    assert {key: loaded[key] for key in ("step", "best", "classes")} == {"step": 7, "best": 0.5, "classes": ["a", "b"]}
    assert torch.equal(loaded["model"]["w"], CONTENT["model"]["w"])  # type: ignore[index]


def test_the_circumstances_of_a_run_can_be_loaded_back(tmp_path: Path) -> None:
    """torch.__version__ is no plain string, and numpy's numbers no plain numbers: neither may slip in."""
    save_checkpoint(tmp_path / "last.pt", {**CONTENT, "versions": versions()})
    assert load_checkpoint(tmp_path / "last.pt")["versions"] == versions()


def test_a_run_folder_stands_for_its_last_checkpoint(tmp_path: Path) -> None:
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


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"w": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="expected a checkpoint of format 1, found None"):
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


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(b"old")

    def write_half(file: IO[bytes]) -> None:
        file.write(b"new")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, write_half)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_that_cannot_be_written_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot write the checkpoint .*what was saved before is whole"):
        save_checkpoint(tmp_path / "file" / "last.pt", CONTENT)


def test_killing_the_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    """A process that does nothing but save is killed at ten moments."""
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
            process.send_signal(signal.SIGSTOP)  # what is on the disk now is what a kill would leave
            loaded = load_checkpoint(path)
            assert (loaded["model"]["w"] == loaded["step"]).all()
            seen.append(loaded["step"])
            process.send_signal(signal.SIGCONT)
    finally:
        process.kill()
        process.wait()
    assert (load_checkpoint(path)["model"]["w"] >= seen[-1]).all()
    assert len(set(seen)) > 1


def test_weights_that_do_not_fit_are_told_by_name() -> None:
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


def test_weights_that_fit_are_taken() -> None:
    source, target = nn.Linear(2, 3), nn.Linear(2, 3)
    load_weights(target, source.state_dict(), "model.pt")
    assert torch.equal(target.weight, source.weight)
