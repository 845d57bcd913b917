"""A run's folder, its log, and what is recorded of the circumstances.

runs/NAME/config.yaml  checkpoints/  tensorboard/  metrics.json  detections/  pictures/  log.txt
"""

from __future__ import annotations

import json
import logging
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy
import torch
import torchvision
from omegaconf import OmegaConf
from tqdm import tqdm

from detector.configs.errors import ConfigError
from detector.configs.groups import to_plain
from detector.configs.schema import Config, TrainerConfig
from detector.engine.checkpoint import write_atomically
from detector.engine.distributed import from_main, is_main, local_rank, process_group, world_size
from detector.ops import native_status

log = logging.getLogger("detector")


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


@contextmanager
def logging_to(path: Path | None) -> Iterator[None]:
    """Messages to the terminal, and with the details to the file `path`; errors only in all but the main process."""
    terminal = _BarHandler(logging.INFO if is_main() else logging.ERROR)
    terminal.setFormatter(logging.Formatter("%(message)s"))
    handlers: list[logging.Handler] = [terminal]
    if path is not None and is_main():
        file = logging.FileHandler(path, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        handlers.append(file)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    for handler in handlers:
        log.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()


def versions() -> dict[str, str]:
    """Versions, commit and hardware, as stored with every checkpoint."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # as a plain string: a checkpoint holds no other class
        "torchvision": torchvision.__version__,
        "numpy": numpy.__version__,
        "commit": _commit(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "processes": str(world_size()),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def all_processes(config: TrainerConfig) -> AbstractContextManager[None]:
    """Context in which the processes that torchrun started, if it did, work as one."""
    return process_group(pick_device(config.device), 60 * config.timeout_minutes)


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


def _commit() -> str:
    root = Path(__file__).resolve().parent.parent
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"
