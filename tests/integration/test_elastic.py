"""torchrun restarts a run that lost a process. The run continues from its checkpoint and ends with the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from detector.engine.checkpoint import load_checkpoint
from detector.tools.bench import kill_check

STEPS = 60
RUN = [
    "train", "experiment=demo", "dataset.train=8", "dataset.test=2", "dataset.height=64", "dataset.width=96",
    "backbone.width=0.0625", "input.short_sides=[64]", "input.test_short_side=64", f"trainer.max_steps={STEPS}",
    "trainer.images_per_step=2", "trainer.threads=1", "trainer.device=cpu", "trainer.checkpoint_every=5",
    "trainer.ema_decay=0.9", "trainer.workers=1", "trainer.eval_images=0", "resume=auto",
]  # fmt: skip


def torchrun(folder: Path) -> subprocess.Popen[str]:
    words = ["--nproc_per_node=2", "--max-restarts=2", "-m", "detector.tools", *RUN, f"output_dir={folder}"]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def workers(agent: int) -> dict[int, int]:
    """Return rank -> process id of the processes that torchrun (process id `agent`) started."""
    found = {}
    for child in Path(f"/proc/{agent}/task/{agent}/children").read_text().split():
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        found |= {int(value[5:]): int(child) for value in variables if value.startswith(b"RANK=")}
    return found


def starts(folder: Path) -> Sequence[int]:
    """Return the steps at which the run was started."""
    return [start["step"] for start in json.loads((folder / "history.json").read_text())["starts"]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    process = torchrun(folder)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert starts(folder) == [0]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_run_that_loses_a_process_ends_with_the_bytes_of_an_undisturbed_one(
    victim: int, undisturbed: Path, tmp_path: Path
) -> None:
    """One restart is enough: the two starts share torchrun's store, and the second must not see the first's keys."""
    if not Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").is_file():
        pytest.skip("the system does not list a process's children")
    process = torchrun(tmp_path)
    try:
        while not (tmp_path / "checkpoints" / "last.pt").is_file():
            assert process.poll() is None, process.stdout and process.stdout.read()
            time.sleep(0.02)
        os.kill(workers(process.pid)[victim], signal.SIGKILL)
        output, _ = process.communicate(timeout=600)
    finally:
        process.terminate()  # torchrun also ends its processes
        process.wait()
    assert process.returncode == 0, output
    first, second = starts(tmp_path)
    assert first == 0
    assert 0 < second < STEPS
    assert "failed to connect" not in output
    assert kill_check.differences(load_checkpoint(undisturbed), load_checkpoint(tmp_path)) == []
