"""Faults from outside a run: each gives one clear line and an exit code, and the last checkpoint stays intact."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from detector.engine.checkpoint import load_checkpoint
from detector.pipeline.resume import value_of
from detector.tools import cli

# Longer than any fault needs to occur. max_minutes ends a run whose fault never occurs.
ENDLESS = ["trainer.max_steps=1000000", "trainer.max_minutes=4", "trainer.checkpoint_every=2"]


def train_while(words: list[str], strike: Callable[[], object]) -> int:
    """Train, call `strike` after the first checkpoint, and return the exit code."""
    last = Path(value_of("output_dir", words) or "") / "checkpoints" / "last.pt"
    ended = threading.Event()

    def wait_and_strike() -> None:
        while not last.is_file() and not ended.is_set():
            time.sleep(0.02)
        if not ended.is_set():  # otherwise a signal would reach the test itself
            strike()

    thread = threading.Thread(target=wait_and_strike)
    thread.start()
    try:
        return cli.run(["train", *words])
    finally:
        ended.set()
        thread.join()


def the_error(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the only error line, which must end the output."""
    output = capsys.readouterr().err
    assert "Traceback" not in output
    (line,) = re.findall(r"^error: (.*)$", output, re.MULTILINE)
    assert output.rstrip().endswith(line)
    return str(line)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 64 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def own_pictures(settings: list[str], tmp_path: Path) -> Path:
    """A copy of the pictures that a test may change."""
    return Path(shutil.copytree(value_of("dataset.root", settings) or "", tmp_path / "voc"))


def test_a_full_disk_is_reported_in_one_line(
    settings: list[str], disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checkpoints of every step fill the disk."""
    assert cli.run(["train", *settings, *ENDLESS, "trainer.keep_every=1", f"output_dir={disk}"]) == 1
    message = the_error(capsys)
    assert message.startswith(f"cannot write the checkpoint {disk}")
    assert message.endswith("No space left on device; the previous checkpoint is intact")
    assert load_checkpoint(disk)["step"] >= 1
    assert not list((disk / "checkpoints").glob(".*"))


def test_a_disk_filled_by_others_is_reported_in_one_line(
    settings: list[str], disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk has no byte left, so the log and TensorBoard cannot write either."""
    ended = threading.Event()

    def fill() -> None:
        with open(disk / "others", "wb", buffering=0) as file:
            while not ended.is_set():  # replacing a checkpoint frees space again
                with contextlib.suppress(OSError):
                    file.write(bytes(1 << 16))

    filler = threading.Thread(target=fill)
    words = [*settings, *ENDLESS, "trainer.log_every=1", f"output_dir={disk}"]
    try:
        assert train_while(words, filler.start) == 1
    finally:
        ended.set()
        filler.join()
    assert "No space left on device" in the_error(capsys)
    load_checkpoint(disk)


def test_a_read_only_folder_is_refused_in_one_line(
    settings: list[str], disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["train", *settings, "trainer.max_steps=2", f"output_dir={tmp_path / 'run'}"]) == 0
    shutil.copytree(tmp_path / "run", disk, dirs_exist_ok=True)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    capsys.readouterr()
    for words in (["train", f"resume={disk}"], ["train", *settings, f"output_dir={disk / 'other'}"]):
        assert cli.run(words) == 1
        message = the_error(capsys)
        assert "Read-only file system" in message
        assert str(disk) in message
    assert load_checkpoint(disk)["step"] == 2


def test_a_picture_deleted_during_the_run_is_named(
    settings: list[str], own_pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = sorted((own_pictures / "JPEGImages").iterdir())[0]
    folder = tmp_path / "run"
    words = [*settings, *ENDLESS, f"dataset.root={own_pictures}", "trainer.workers=1", f"output_dir={folder}"]
    assert train_while(words, gone.unlink) == 1
    assert the_error(capsys) == f"{gone}: no such image; restore it or remove its id from the image list"
    load_checkpoint(folder)


def test_a_killed_loader_worker_is_reported_in_one_line(
    settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL, as from the kernel when memory runs out."""
    children = Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/children")
    if not children.is_file():
        pytest.skip("the system does not list a process's children")
    before = set(children.read_text().split())

    def kill_one() -> None:
        os.kill(int(max(set(children.read_text().split()) - before, key=int)), signal.SIGKILL)

    assert train_while([*settings, *ENDLESS, "trainer.workers=2", f"output_dir={tmp_path}"], kill_one) == 1
    message = the_error(capsys)
    assert "a loader worker was killed by signal: Killed" in message or "a loader worker exited unexpectedly" in message
    assert "Lower trainer.workers" in message
    load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGINT"])
def test_a_signal_saves_and_exits_with_code_3(
    name: str, settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*settings, *ENDLESS, f"output_dir={tmp_path}"]
    assert train_while(words, lambda: os.kill(os.getpid(), getattr(signal, name))) == 3
    assert f"{name}: saved step {load_checkpoint(tmp_path)['step']}" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the picture was being opened
def test_a_second_interrupt_stops_at_once(
    settings: list[str], own_pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A picture blocks its reader, so the step whose end the first interrupt waits for never ends."""
    picture = sorted((own_pictures / "JPEGImages").iterdir())[0]
    folder = tmp_path / "run"

    def interrupt_twice() -> None:
        os.mkfifo(tmp_path / "pipe")
        os.replace(tmp_path / "pipe", picture)
        writer = None
        while writer is None:  # opens once the trainer waits at the other end
            with contextlib.suppress(OSError):
                writer = os.open(picture, os.O_WRONLY | os.O_NONBLOCK)
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)
        os.close(writer)

    words = [*settings, *ENDLESS, f"dataset.root={own_pictures}", f"output_dir={folder}"]
    assert train_while(words, interrupt_twice) == 1
    assert capsys.readouterr().err.rstrip().endswith("stopped")
    load_checkpoint(folder)
