"""A run's folder, its log, and the device that it runs on.

runs/NAME/config.yaml  history.json  checkpoints/  tensorboard/  metrics.json  detections/  pictures/  log.txt
"""

from __future__ import annotations

import json
import logging
import sys
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

SPLIT = "split.json"  # which pictures a run trains on and which it tests on, where the run has divided them


@dataclass(frozen=True, slots=True)
class RunFolder:
    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def detections(self) -> Path:
        return self.path / "detections"

    @property
    def pictures(self) -> Path:
        return self.path / "pictures"

    def write_config(self, config: Config) -> str:
        """Writes config.yaml and returns its text."""
        text = OmegaConf.to_yaml(OmegaConf.create(to_plain(config)))
        write_atomically(self.path / "config.yaml", lambda file: file.write(text.encode()))
        return text

    def write_history(self, step: int) -> None:
        """Adds to history.json that the run was started, or taken up, at `step`, and under which circumstances."""
        path = self.path / "history.json"
        starts = json.loads(path.read_text())["starts"] if path.is_file() else []
        starts.append({"date": datetime.now().astimezone().isoformat(timespec="seconds"), "step": step, **versions()})
        self.write_json(path.name, {"starts": starts})

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        text = json.dumps(content, indent=2) + "\n"
        write_atomically(self.path / name, lambda file: file.write(text.encode()))


def open_run(output_dir: str | None, command: str) -> RunFolder:
    """The folder of a run, made if need be; named by date and time unless given. Raises OSError if not writable."""
    folder = Path(from_main(output_dir or f"runs/{command}_{datetime.now():%Y%m%d_%H%M%S}"))
    folder.mkdir(parents=True, exist_ok=True)
    return RunFolder(folder)


class _BarHandler(logging.Handler):
    """Prints above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


class _LogFile(logging.FileHandler):
    """A log that a full disk silences, told once, instead of answering every message with a traceback."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        log.removeHandler(self)
        print(f"{self.baseFilename} can no longer be written", file=sys.stderr)


def _leave_to_the_main_thread(failed: threading.ExceptHookArgs) -> None:
    """TensorBoard's writing thread passes its errors on to the main thread: no traceback of its own for these."""
    if not isinstance(failed.exc_value, OSError):
        threading.__excepthook__(failed)


@contextmanager
def logging_to(path: Path | None) -> Iterator[None]:
    """Messages to the terminal, and with the details to the file `path`; errors only in all but the main process."""
    terminal = _BarHandler(logging.INFO if is_main() else logging.ERROR)
    terminal.setFormatter(logging.Formatter("%(message)s"))
    handlers: list[logging.Handler] = [terminal]
    if path is not None and is_main():
        file = _LogFile(path, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        handlers.append(file)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    for handler in handlers:
        log.addHandler(handler)
    before, threading.excepthook = threading.excepthook, _leave_to_the_main_thread
    try:
        yield
    finally:
        threading.excepthook = before
        for handler in handlers:
            log.removeHandler(handler)
            with suppress(OSError):  # what a full disk did not take before, it does not take now
                handler.close()


def all_processes(config: TrainerConfig) -> AbstractContextManager[None]:
    """Context in which the processes that torchrun started, if it did, work as one."""
    # The watchdog comes first: it prints where each process is.
    return process_group(pick_device(config.device), 60 * config.timeout_minutes + 30)


def kernels(device: torch.device) -> str:
    """One phrase on which kernels run the operators on a device."""
    status = [item for item in native_status() if item.device == device.type]
    slow = [item for item in status if item.kernel != "compiled"]
    if not slow:
        return "compiled operators"
    which = "all operators" if len(slow) == len(status) else ", ".join(item.operator for item in slow)
    return f"PyTorch kernels for {which} ({slow[0].reason})"


def pick_device(name: str) -> torch.device:
    """The device of `trainer.device`; auto takes CUDA where there is one. Raises ConfigError for one not there.

    Of several processes on a machine each takes a CUDA device of its own.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"trainer.device is {name!r}; expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"trainer.device is {name}, but this torch sees no CUDA device; set trainer.device=cpu")
    if name == "cuda":
        if local_rank() >= torch.cuda.device_count():
            raise ConfigError(
                f"this is process {local_rank()} of its machine, which has {torch.cuda.device_count()} CUDA devices: "
                "start one process per device (torchrun --nproc_per_node)"
            )
        device = torch.device("cuda", local_rank())
        torch.cuda.set_device(device)
    return device
