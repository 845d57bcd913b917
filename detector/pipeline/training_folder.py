"""The run folder of a training: one training at a time writes to it, and a new one keeps the files of an earlier run.

A lock of the operating system ends with its process, also after a kill. File systems without locks have none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EAGAIN
from itertools import count
from pathlib import Path

from detector.configs import schema
from detector.engine.distributed import is_main
from detector.pipeline.run_folder import PLAN, SPLIT, RunFolder, logging_to, open_run

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("detector")

LOCK = ".lock"
FILES = (
    "analysis.html", "analysis.json", "checkpoints", "config.yaml", "detections", "detections.npz", "history.json",
    "log.txt", "metrics.json", "model.safetensors", "nonfinite_*", "pictures", PLAN, "profile", SPLIT, "tensorboard",
)  # fmt: skip


@contextmanager
def training_run(config: schema.Config, output_dir: str | None, *, new: bool) -> Iterator[RunFolder]:
    """Make the run folder of a training and log to its log.txt in the block.

    A `new` training first moves the files of an earlier run into a folder beside it. Raises ValueError if another
    process trains into the folder, or if the training reads a file that would be moved.
    """
    run = open_run(output_dir, "train")
    with _locked(run.path):
        moved = _set_aside(run.path, config) if new and is_main() else None
        with logging_to(run.path / "log.txt"):
            if moved is not None:
                log.warning("%s held an earlier run, which is now in %s", run.path, moved)
            yield run


def _set_aside(folder: Path, config: schema.Config) -> Path | None:
    """Move the files of a run with a checkpoint from `folder` into a new folder beside it. Return the new folder."""
    if not any((folder / "checkpoints").glob("*.pt")):
        return None
    whole = folder.resolve()
    split = config.dataset.split_file if isinstance(config.dataset, schema.AutoDatasetConfig) else None
    for key, file in (("weights", config.weights), ("dataset.split_file", split)):
        if file is not None and whole in (Path(file).resolve(), *Path(file).resolve().parents):
            raise ValueError(f"{key}={file} is in the folder of the new run; give another output_dir than {folder}")
    parent = whole.parent if folder.name in ("", "..") else folder.parent
    target = next(path for number in count(1) if not (path := parent / f"{whole.name}_old{number}").exists())
    target.mkdir()
    for pattern in FILES:
        for path in folder.glob(pattern):
            path.rename(target / path.name)
    return target


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder in the block, in the main process. Raises ValueError if another process has it.

    The lock is POSIX's, which loader workers do not inherit: they may live a second longer than a killed trainer.
    """
    if fcntl is None or not is_main():
        yield
        return
    with open(folder / LOCK, "w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (EACCES, EAGAIN):
                raise ValueError(
                    f"another training writes to {folder}; wait until it ends, or give another output_dir"
                ) from error
        yield
