"""A run's folder, its log and its device.

runs/NAME/config.yaml  history.json  checkpoints/  tensorboard/  metrics.json  detections/  pictures/  log.txt
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from tqdm import tqdm

from detector.configs.errors import ConfigError
from detector.configs.groups import to_plain
from detector.configs.schema import Config, TrainerConfig
from detector.engine.checkpoint import write_atomically
from detector.engine.distributed import from_main, is_main, local_rank, process_group
from detector.ops import native_status
from detector.pipeline.versions import versions

log = logging.getLogger("detector")

SPLIT = "split.json"  # training and test pictures of a run, if the run split them itself
PLAN = "plan.json"  # the plan of a run, with the reasons of its settings


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of a run and the places of its files."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard's files."""
        return self.path / "tensorboard"

    @property
    def detections(self) -> Path:
        """Folder of VOC's result files."""
        return self.path / "detections"

    @property
    def pictures(self) -> Path:
        """Folder of drawn detections."""
        return self.path / "pictures"

    def write_config(self, config: Config) -> str:
        """Write config.yaml and return its text."""
        text = OmegaConf.to_yaml(OmegaConf.create(to_plain(config)))
        write_atomically(self.path / "config.yaml", lambda file: file.write(text.encode()))
        return text

    def write_history(self, step: int) -> None:
        """Add a start of the run at `step` to history.json, with date and versions."""
        path = self.path / "history.json"
        starts = json.loads(path.read_text())["starts"] if path.is_file() else []
        starts.append({"date": datetime.now().astimezone().isoformat(timespec="seconds"), "step": step, **versions()})
        self.write_json(path.name, {"starts": starts})

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write plain values as the JSON file `name`, all of it or nothing."""
        text = json.dumps(content, indent=2) + "\n"
        write_atomically(self.path / name, lambda file: file.write(text.encode()))


def open_run(output_dir: str | None, command: str) -> RunFolder:
    """Create and return a run's folder, by default named by date and time. Raises OSError if it is not writable."""
    folder = Path(from_main(output_dir or f"runs/{command}_{datetime.now():%Y%m%d_%H%M%S}"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        reason = "it is a file" if folder.is_file() else error.strerror
        raise OSError(f"cannot write to the run's folder {folder} ({reason}); set another output_dir") from error
    return RunFolder(folder)


class _BarHandler(logging.Handler):
    """Log handler that prints above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


class _LogFile(logging.FileHandler):
    """Log file that stops after the first write error (full disk), instead of a traceback for every message."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        log.removeHandler(self)
        print(f"cannot write {self.baseFilename} any more; the log continues only on the terminal", file=sys.stderr)


def _hide_write_errors(failed: threading.ExceptHookArgs) -> None:
    """Print no traceback for an OSError in a thread: TensorBoard's writer passes its errors to the main thread."""
    if not isinstance(failed.exc_value, OSError):
        threading.__excepthook__(failed)


@contextmanager
def logging_to(path: Path | None) -> Iterator[None]:
    """Log to the terminal, and with more detail to the file `path`. Processes other than the main log only errors."""
    terminal = _BarHandler(logging.INFO if is_main() else logging.ERROR)
    terminal.setFormatter(logging.Formatter("%(message)s"))
    handlers: list[logging.Handler] = [terminal]
    if path is not None and is_main():
        file = _LogFile(path, encoding="utf-8", errors="backslashreplace")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        handlers.append(file)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    for handler in handlers:
        log.addHandler(handler)
    before, threading.excepthook = threading.excepthook, _hide_write_errors
    try:
        yield
    finally:
        threading.excepthook = before
        for handler in handlers:
            log.removeHandler(handler)
            with suppress(OSError):  # closing writes the rest, which fails again on a full disk
                handler.close()


@contextmanager
def logged_run(output_dir: str | None, command: str) -> Iterator[RunFolder]:
    """Make a run's folder and log to its log.txt in the block."""
    folder = open_run(output_dir, command)
    with logging_to(folder.path / "log.txt"):
        yield folder


def all_processes(config: TrainerConfig) -> AbstractContextManager[None]:
    """Context in which the processes of torchrun, if any, form a process group."""
    # 30 s more than the watchdog, which must act first, because it prints the stack of each process.
    return process_group(pick_device(config.device), 60 * config.timeout_minutes + 30)


def kernels(device: torch.device) -> str:
    """Return a phrase that names the kernels of the operators on a device."""
    status = [item for item in native_status() if item.device == device.type]
    slow = [item for item in status if item.kernel != "compiled"]
    if not slow:
        return "compiled operators"
    names = "all operators" if len(slow) == len(status) else ", ".join(item.operator for item in slow)
    return f"PyTorch kernels for {names} ({slow[0].reason})"


def pick_device(name: str) -> torch.device:
    """Return the device of `trainer.device`; auto means CUDA if available. Raises ConfigError for a missing device.

    If a machine runs several processes, each gets a different CUDA device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"trainer.device is {name!r}; expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"trainer.device is {name}, but torch finds no CUDA device; set trainer.device=cpu")
    if name == "cuda":
        if local_rank() >= torch.cuda.device_count():
            raise ConfigError(
                f"process {local_rank()} of this machine has no CUDA device, because the machine has only "
                f"{torch.cuda.device_count()}: start one process per device (torchrun --nproc_per_node)"
            )
        device = torch.device("cuda", local_rank())
        torch.cuda.set_device(device)
    return device
