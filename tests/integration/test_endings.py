"""Every way a run can end: in bounded time, with the right exit code, in one line, and without leftover processes.

Each run is a command-line process in its own session. A process that remains in the session is a leftover.
"""

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from detector.datasets.synthetic import SyntheticDataset
from detector.tools import cli
from detector.tools.settings.exit_codes import DONE, INTERRUPTED
from tests.integration.conftest import write_voc

BOUND_S = 20.0  # from the event that ends the run to the end of its last process
TRAINED, TESTED = slice(0, 6), slice(6, 8)  # slices of the pictures

# Longer than any fault needs to occur. max_minutes ends a run whose fault never occurs.
ENDLESS = ("trainer.max_steps=1000000", "trainer.max_minutes=4")
SHORT = ("trainer.max_steps=4", "trainer.eval_every=2")

PROGRAM = ("-m", "detector.tools")
WITH_A_BUG = """
from detector.pipeline import periodic_evaluation
from detector.tools.cli import main
def show_results(*args): raise RuntimeError("a bug")
periodic_evaluation.show_results = show_results
main()
"""
# Samples that block their reader, like pictures on a file server that is gone.
WITH_BLOCKED_SAMPLES = """
from detector.datasets.augment import {view}
from detector.tools.cli import main
{view}.__getitem__ = lambda *args: open("never").read()
main()
"""
WAITS_IN_TRAINING = ("-c", WITH_BLOCKED_SAMPLES.format(view="TrainingView"))
WAITS_IN_EVALUATION = ("-c", WITH_BLOCKED_SAMPLES.format(view="EvaluationView"))


class Run:
    """A command-line process, its output, and the pipe that it may wait for."""

    def __init__(self, root: Path, folder: Path, words: list[str], program: tuple[str, ...] = PROGRAM) -> None:
        self.root, self.folder = root, folder
        self.output = root.parent / "output.txt"
        self.held = ExitStack()
        os.mkfifo(root.parent / "never")
        with open(self.output, "wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, *program, *words, f"output_dir={folder}"],
                cwd=root.parent,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def printed(self) -> str:
        return self.output.read_text(errors="replace")

    def alive(self) -> list[int]:
        """Return the processes of its session, without zombies."""
        found = []
        for path in Path("/proc").iterdir():
            if path.name.isdecimal():
                with suppress(OSError):  # the process has just ended
                    state, _, _, session = (path / "stat").read_text().rpartition(")")[2].split()[:4]
                    if int(session) == self.process.pid and state != "Z":
                        found.append(int(path.name))
        return found

    def until(self, ready: Callable[[], object]) -> None:
        """Wait until `ready()` is true or the process ends."""
        while self.process.poll() is None and not ready():
            time.sleep(0.02)

    def waits(self) -> bool:
        """Return True if the process waits for a blocked sample."""
        with suppress(OSError):  # no process reads the pipe
            self.held.callback(os.close, os.open(self.root.parent / "never", os.O_WRONLY | os.O_NONBLOCK))
            return True
        return False

    def end(self) -> tuple[int, list[int]]:
        """Return the exit code, and the processes that still run after BOUND_S."""
        deadline = time.monotonic() + BOUND_S
        code = self.process.wait(BOUND_S)
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        return code, self.alive()

    def close(self) -> None:
        for process in self.alive():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()
        self.held.close()


def split_pictures(root: Path, part: slice) -> list[Path]:
    return sorted((root / "JPEGImages").iterdir())[part]


def cut_off(root: Path, part: slice) -> None:
    """Replace the last picture by a JPEG without its second half, as after an interrupted copy."""
    path = split_pictures(root, part)[-1]
    picture = path.with_suffix(".jpg")
    Image.open(path).save(picture)
    picture.write_bytes(picture.read_bytes()[: picture.stat().st_size // 2])
    path.unlink()


def damage(root: Path, part: slice) -> None:
    """Zero the middle of the last PNG. Its start and its end stay valid, so that only a decoder notices."""
    path = split_pictures(root, part)[-1]
    content = path.read_bytes()
    start = content.index(b"IDAT") + 16
    path.write_bytes(content[:start] + bytes(len(content) - start - 64) + content[-64:])


def wait_for_checkpoint(run: Run) -> None:
    run.until((run.folder / "checkpoints" / "last.pt").is_file)


def signalled(*names: str) -> Callable[[Run], None]:
    """Send the signals to the whole process group after the first checkpoint, as a terminal or a scheduler does."""

    def strike(run: Run) -> None:
        wait_for_checkpoint(run)
        for name in names:
            os.killpg(run.process.pid, getattr(signal, name))

    return strike


def interrupted_while_it_waits(run: Run) -> None:
    run.until(run.waits)
    os.killpg(run.process.pid, signal.SIGINT)


def interrupted_twice(run: Run) -> None:
    run.until(run.waits)
    for _ in range(2):
        os.killpg(run.process.pid, signal.SIGINT)
        time.sleep(0.5)  # two signals at the same time count as one


def killed(run: Run) -> None:
    wait_for_checkpoint(run)
    run.process.kill()


def killed_while_it_waits(run: Run) -> None:
    run.until(run.waits)
    run.process.kill()


def fills_the_disk(run: Run) -> None:
    """Limit the file size, so that no further checkpoint fits."""
    wait_for_checkpoint(run)
    resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))


def loses_a_worker(run: Run) -> None:
    wait_for_checkpoint(run)
    os.kill(next(process for process in run.alive() if process != run.process.pid), signal.SIGKILL)


def wait_for_last_line(run: Run) -> None:
    """Cause no fault. Wait until the run prints its last line."""
    run.until(lambda: re.search(r"^(\w*[Ee]rror: |done at step )", run.printed(), re.MULTILINE))


@dataclass(frozen=True)
class Ending:
    code: int
    says: str  # a line of the output; the last line if the run failed
    words: tuple[str, ...] = SHORT
    spoil: Callable[[Path], object] = lambda root: None  # changes the data before the start
    spoil_run: Callable[[Path], object] = lambda folder: None  # changes the run's folder before the start
    strike: Callable[[Run], None] = wait_for_last_line
    workers: tuple[int, ...] = (0, 1, 2)
    program: tuple[str, ...] = PROGRAM


CANNOT_DECODE = r"error: .*/JPEGImages/train_0000\d\.\w+: cannot decode this image .*; replace it or remove it from.*"
CANNOT_READ = r"error: .*/JPEGImages/train_0000\d\.jpg: cannot be read \(.*\); replace it or remove it from the dataset"
SAVED = ": saved step \\d+ to .*last.pt"

ENDINGS = {
    "normal": Ending(0, "done at step 4 .*"),
    "max_minutes": Ending(0, "done at step .*", words=("trainer.max_steps=1000000", "trainer.max_minutes=0.01")),
    "training picture cut off": Ending(1, CANNOT_READ, spoil=lambda root: cut_off(root, TRAINED)),
    "test picture cut off": Ending(1, CANNOT_READ, spoil=lambda root: cut_off(root, TESTED)),
    "training picture damaged": Ending(1, CANNOT_DECODE, spoil=lambda root: damage(root, TRAINED)),
    "test picture damaged": Ending(1, CANNOT_DECODE, spoil=lambda root: damage(root, TESTED)),
    "evaluation cannot write": Ending(
        1, "error: .*File exists: .*/pictures'", spoil_run=lambda folder: (folder / "pictures").write_text("a file")
    ),
    "bug in evaluation": Ending(1, "RuntimeError: a bug", program=("-c", WITH_A_BUG)),
    "full disk": Ending(
        1, "error: cannot write the checkpoint .*File too large; the previous checkpoint is intact.*",
        words=ENDLESS, strike=fills_the_disk,
    ),
    "late ConfigError": Ending(
        2, "error: trainer.gradient_checkpointing=true does not work with .*",
        words=("backbone=mobilenet_v2", "backbone.weights=null", "trainer.gradient_checkpointing=true"),
    ),
    "loss not finite": Ending(4, "error: .*finite.*", words=(*ENDLESS, "optimizer.lr=1e30", "schedule.warmup_steps=0")),
    "Ctrl-C": Ending(3, "SIGINT" + SAVED, words=ENDLESS, strike=signalled("SIGINT")),
    "SIGTERM": Ending(3, "SIGTERM" + SAVED, words=ENDLESS, strike=signalled("SIGTERM")),
    "Ctrl-C twice in training": Ending(1, "stopped", strike=interrupted_twice, program=WAITS_IN_TRAINING),
    "Ctrl-C in evaluation": Ending(
        3, "SIGINT: saved step 2 to .*last.pt; for its scores, .*: detector train resume=.*",
        strike=interrupted_while_it_waits, program=WAITS_IN_EVALUATION,
    ),
    "SIGKILL in training": Ending(-9, "", words=ENDLESS, strike=killed),
    "SIGKILL while training waits": Ending(-9, "", strike=killed_while_it_waits, program=WAITS_IN_TRAINING),
    "SIGKILL in evaluation": Ending(-9, "", strike=killed_while_it_waits, program=WAITS_IN_EVALUATION),
    "SIGKILL of a worker": Ending(
        1, "error: a loader worker .*Lower trainer.workers.*", words=ENDLESS, strike=loses_a_worker, workers=(1, 2)
    ),
}  # fmt: skip

QUICK = {
    ("training picture damaged", 1),
    ("test picture damaged", 2),
    ("Ctrl-C in evaluation", 1),
    ("SIGKILL in evaluation", 1),
}

CASES = [
    pytest.param(name, workers, marks=[] if (name, workers) in QUICK else pytest.mark.slow)
    for name, ending in ENDINGS.items()
    for workers in ending.workers
]


@pytest.fixture(scope="module")
def eight_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VOC-format folder of eight pictures of 48 x 64; the last two are the test split."""
    root = tmp_path_factory.mktemp("voc")
    write_voc(root, SyntheticDataset("train", num_images=8, height=48, width=64, seed=0), range(8))
    for split, part in (("train", TRAINED), ("test", TESTED)):
        ids = [path.stem for path in split_pictures(root, part)]
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(ids))
    return root


@pytest.fixture
def root(eight_pictures: Path, tmp_path: Path) -> Path:
    """A copy of the pictures that a test may damage."""
    return Path(shutil.copytree(eight_pictures, tmp_path / "voc"))


def settings(root: Path, workers: int) -> list[str]:
    """Return overrides for a network whose steps take a moment."""
    return [
        "dataset=voc",
        f"dataset.root={root}",
        "dataset.train=train",
        "dataset.test=test",
        "dataset.classes=[disc,square,triangle,cross,diamond,ring]",
        "backbone=resnet18_narrow",
        "proposals=grid",
        "input.short_sides=[48]",
        "input.test_short_side=48",
        "input.max_side=80",
        "optimizer.lr=0.001",
        "trainer.images_per_step=2",
        f"trainer.workers={workers}",
        "trainer.threads=1",
        "trainer.device=cpu",
        "trainer.checkpoint_every=2",
        "trainer.eval_every=0",
    ]


@pytest.fixture
def start() -> Iterator[Callable[..., Run]]:
    if not Path("/proc/self/stat").is_file():
        pytest.skip("the system does not list processes")
    with ExitStack() as stack:

        def start(root: Path, folder: Path, words: list[str], program: tuple[str, ...] = PROGRAM) -> Run:
            run = Run(root, folder, words, program)
            stack.callback(run.close)
            return run

        yield start


def check(run: Run, code: int, says: str) -> None:
    """Check the exit code, the message (one line, except for a bug) and that no process is left."""
    found, left = run.end()
    output = run.printed()
    assert left == [], output
    assert found == code, output
    assert ("Traceback" in output) == says.startswith("RuntimeError: "), output
    assert "Exception ignored" not in output
    assert len(re.findall("^error: ", output, re.MULTILINE)) == says.startswith("error: ")
    if code in (DONE, INTERRUPTED):
        assert re.search(f"^{says}$", output, re.MULTILINE), output
    elif code > 0:
        assert re.fullmatch(says, output.rstrip().splitlines()[-1]), output


@pytest.mark.parametrize(("name", "workers"), CASES)
def test_a_training_ends_cleanly(
    name: str, workers: int, root: Path, tmp_path: Path, start: Callable[..., Run]
) -> None:
    ending, folder = ENDINGS[name], tmp_path / "run"
    folder.mkdir()
    ending.spoil(root)
    ending.spoil_run(folder)
    run = start(root, folder, ["train", *settings(root, workers), *ending.words], ending.program)
    ending.strike(run)
    check(run, ending.code, ending.says)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_evaluation_with_a_cut_off_picture_ends_cleanly(
    workers: int, root: Path, tmp_path: Path, start: Callable[..., Run]
) -> None:
    assert cli.run(["train", *settings(root, 0), "trainer.max_steps=1", f"output_dir={tmp_path / 'trained'}"]) == 0
    cut_off(root, TESTED)
    words = ["eval", f"weights={tmp_path / 'trained'}", f"dataset.root={root}", f"trainer.workers={workers}"]
    run = start(root, tmp_path / "run", words)
    wait_for_last_line(run)
    check(run, 1, CANNOT_READ)
