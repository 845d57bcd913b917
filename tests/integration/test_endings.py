"""Every way in which a training ends: within seconds, with its exit code, and without a process left behind.

Each case is a process of its own, in a session of its own, whose members are looked for after it has ended.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from detector.pipeline.resume import value_of

GRACE_S = 20  # from the moment that ends a training to the end of its process
START_S = 120  # until there is something to end; a busy machine imports torch slowly
ENDLESS = ["trainer.max_steps=1000000", "trainer.checkpoint_every=2", "trainer.log_every=1000000"]
IN_TRAINING = "import sys; from detector.tools.cli import run; sys.exit(run(sys.argv[1:]))"


@dataclass(frozen=True)
class Ending:
    """How a training ends, and what is expected of it."""

    code: int
    told: str  # in the last lines of stderr
    words: tuple[str, ...] = ()
    prepare: Callable[[Path], None] = lambda root: None  # spoils the pictures before the start
    strike: tuple[int, ...] = ()  # signals, once there is a checkpoint
    program: str = IN_TRAINING


def cut(root: Path, number: int) -> None:
    """Takes the last half of a picture's bytes away; its header stays."""
    path = sorted((root / "JPEGImages").iterdir())[number]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_in_training(root: Path) -> None:
    cut(root, 3)


def cut_in_test(root: Path) -> None:
    """The last picture is in the test split alone."""
    names = (root / "ImageSets/Main/all.txt").read_text().split()
    (root / "ImageSets/Main/most.txt").write_text("".join(f"{name}\n" for name in names[:-1]))
    (root / "ImageSets/Main/last.txt").write_text(f"{names[-1]}\n")
    path = root / "JPEGImages" / f"{names[-1]}.png"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


RAISING = """
import sys
from detector.pipeline import periodic_evaluation
def fail(*args, **kwargs): raise {error}
periodic_evaluation.{what} = fail
"""


def failing(what: str, error: str) -> str:
    """The program, with a function of the evaluation that raises."""
    return RAISING.format(what=what, error=error) + IN_TRAINING


BUG = failing("show_results", "RuntimeError('a bug')")
FULL_DISK = failing("save_results", "OSError(28, 'No space left on device', 'x')")
SPLITS = ("dataset.train=most", "dataset.test=last")
SHORT = ("trainer.max_steps=2",)
ENDINGS = {
    "done": Ending(0, "done at step 2", SHORT),
    "minutes": Ending(0, "done at step", ("trainer.max_minutes=0.02",)),
    "training_picture": Ending(1, "error: ", prepare=cut_in_training),
    "test_picture": Ending(1, "error: ", (*SHORT, *SPLITS), prepare=cut_in_test),
    "late_settings": Ending(2, "error: trainer.gradient_checkpointing=true", (
        "trainer.gradient_checkpointing=true", "backbone=mobilenet_v2", "backbone.weights=null", "backbone.norm=gn",
        "head=fast_rcnn_align")),
    "loss_not_finite": Ending(4, "error: ", ("optimizer.lr=1e30", "optimizer.clip_norm=null")),
    "interrupt": Ending(3, "interrupted at step", strike=(signal.SIGINT,)),
    "two_interrupts": Ending(1, "stopped", strike=(signal.SIGINT, signal.SIGINT)),
    "terminated": Ending(3, "interrupted at step", strike=(signal.SIGTERM,)),
    "bug_in_evaluation": Ending(1, "RuntimeError: a bug", SHORT, program=BUG),
    "full_disk_in_evaluation": Ending(1, "error: x: No space left", SHORT, program=FULL_DISK),
}  # fmt: skip
QUICK = {("training_picture", 2), ("test_picture", 1), ("terminated", 2), ("bug_in_evaluation", 1)}
CASES = [
    pytest.param(name, workers, marks=() if (name, workers) in QUICK else pytest.mark.slow)
    for name in ENDINGS
    for workers in (0, 1, 2)
]


@pytest.mark.parametrize(("name", "workers"), CASES)
def test_a_training_ends(settings: list[str], tmp_path: Path, name: str, workers: int) -> None:
    ending = ENDINGS[name]
    pictures, out = tmp_path / "voc", tmp_path / "run"
    shutil.copytree(value_of("dataset.root", settings) or "", pictures)
    ending.prepare(pictures)
    words = [
        *settings, *ENDLESS, f"dataset.root={pictures}", f"trainer.workers={workers}", f"output_dir={out}",
        *ending.words,
    ]  # fmt: skip
    with (tmp_path / "told.txt").open("w+b") as told:
        process = subprocess.Popen(
            [sys.executable, "-c", ending.program, "train", *words], stderr=told, stdout=told, start_new_session=True
        )
        try:
            wait_for_the_end(process, out, ending.strike)
            assert left_of_session(process.pid) == []
        finally:
            for pid in [*left_of_session(process.pid), *([process.pid] if process.poll() is None else [])]:
                os.kill(pid, signal.SIGKILL)
            process.wait()
        told.seek(0)
        text = told.read().decode()
    assert process.returncode == ending.code, text[-2000:]
    assert ending.told in text
    if ending.told.startswith("error"):
        assert "Traceback" not in text
        assert text.count("error: ") == 1


def wait_for_the_end(process: "subprocess.Popen[bytes]", out: Path, strike: tuple[int, ...]) -> None:
    """Strikes once there is a checkpoint; fails where the process does not end within the time for it."""
    if strike:
        until(lambda: (out / "checkpoints/last.pt").is_file() or process.poll() is not None, START_S)
        for number in strike:
            os.killpg(process.pid, number)
            time.sleep(0.05)
        until(lambda: process.poll() is not None, GRACE_S)
    else:
        until(lambda: process.poll() is not None, START_S)
    assert process.poll() is not None, "still running"


def until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)


def left_of_session(session: int) -> list[int]:
    """Processes of a session that are neither its leader nor dead."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, own = stat.read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):  # gone meanwhile
            continue
        if own == str(session) and state != "Z" and stat.parent.name != str(session):
            found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_workers_end_with_a_trainer_that_is_killed(settings: list[str], tmp_path: Path, workers: int) -> None:
    """SIGKILL leaves nobody to end them; torch's workers look for their parent every few seconds."""
    out = tmp_path / "run"
    words = [*settings, *ENDLESS, f"trainer.workers={workers}", f"output_dir={out}"]
    process = subprocess.Popen(
        [sys.executable, "-c", IN_TRAINING, "train", *words],
        stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    until((out / "checkpoints/last.pt").is_file, START_S)
    assert len(left_of_session(process.pid)) >= workers
    process.kill()
    process.wait()
    until(lambda: left_of_session(process.pid) == [], GRACE_S)
    left = left_of_session(process.pid)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []
