"""`detector train` and `detector alternate` as Hydra applications: Hydra's main, run folder and search path.

The checkpoint or saved config is loaded before Hydra is called, since a resumed run has settings of its own. They
become Hydra's base config. This also finds every wrong word before Hydra does, and reports it in one line.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detector.configs.compose import checked, explain_error, hydra_words, register_schemas, start_from_saved
from detector.configs.errors import ConfigError
from detector.configs.paths import hydra_value
from detector.configs.schema import Config
from detector.pipeline.resume import Start
from detector.tools.settings.command_line import CommandLine
from detector.tools.settings.exit_codes import DONE


class Task(NamedTuple):
    """The input of one run of a command."""

    config: Config
    folder: Path
    checkpoint: dict[str, Any] | None  # to resume from
    experiment: str | None  # the name of the experiment in the config


Command = Callable[[Task], int]  # returns an exit code


def run_once(name: str, line: CommandLine, start: Start, command: Command) -> int:
    """Run a command under Hydra and return its exit code. With options such as --cfg, print their output instead.

    Raises ConfigError for wrong settings of Hydra, and every error that the command raises.
    """
    folder = start.config.output_dir
    words = list(start.overrides)
    if start.checkpoint is not None:
        words += [f"output_dir={folder}", f"resume={folder}"]
    if folder is not None and any(word.startswith("hydra.run.dir=") for word in line.hydra):
        raise ConfigError(f"hydra.run.dir= and output_dir={folder} both name the run's folder: give one of them")
    own = [] if folder is None else [f"hydra.run.dir={hydra_value('output_dir', folder)}"]
    if not is_main_process():  # the main process names and makes the folder
        own = ["hydra.run.dir=.", "hydra.output_subdir=null"]
    codes: list[int] = []
    errors: list[Exception] = []

    def task(composed: DictConfig) -> float:
        path = Path(HydraConfig.get().run.dir)
        try:
            codes.append(command(Task(checked(composed), path, start.checkpoint, chosen_experiment())))
        except Exception as error:  # Hydra would change the message
            errors.append(error)
        return objective(path)

    base = None if start.base is None else start_from_saved(start.base)
    shown = call_hydra(name, line, [*hydra_words(words), *own], task, base)
    if errors:
        raise errors[0]
    return codes[0] if codes else shown


def call_hydra(
    name: str, line: CommandLine, words: Sequence[str], task: Callable[[DictConfig], float], base: str | None = None
) -> int:
    """Call Hydra's main with the words of a command line and return its exit code.

    `base` names the config to start from; None is the shipped one. Raises ConfigError if Hydra refuses the words.
    """
    register_schemas()
    search = [] if line.config_dir is None else ["--config-dir", str(line.config_dir)]
    try:
        hydra_main([*line.options, *search, *words, f"hydra.job.name={name}", *line.hydra], task, base or "config")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else DONE
    except (HydraException, OmegaConfBaseException) as error:
        defaults = OmegaConf.create({"hydra": {}})
        raise ConfigError(explain_error(error, " ".join(words), defaults)) from error
    return DONE


def hydra_main(words: Sequence[str], task: Callable[[DictConfig], float], config_name: str) -> None:
    """Run Hydra's main on a command line, with the configs of this project. Raises Hydra's errors."""
    GlobalHydra.instance().clear()
    with _restored_logging(), _command_line(words):
        hydra.main(version_base="1.3", config_path="pkg://detector.configs", config_name=config_name)(task)()


@contextmanager
def _restored_logging() -> Iterator[None]:
    """Restore the logging of the process after the block, since Hydra changes it."""
    loggers = [logging.getLogger(name) for name in (None, "hydra", "hydra_plugins")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    try:
        yield
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)


@contextmanager
def _command_line(words: Sequence[str]) -> Iterator[None]:
    """Set sys.argv, which Hydra's main reads, and the variable that makes Hydra raise errors instead of printing."""
    argv, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = ["detector", *words]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = argv
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full


def objective(folder: Path) -> float:
    """Return the mAP in a run's metrics.json, the score that also selects the best checkpoint; NaN if it has none."""
    file = folder / "metrics.json"
    metrics = json.loads(file.read_text()) if file.is_file() else {}
    mean = metrics.get("voc07_11point", {}).get("mAP")
    return float("nan") if mean is None else float(mean)


def chosen_experiment() -> str | None:
    """Return the experiment's name in the job that Hydra runs, or None."""
    chosen = HydraConfig.get().runtime.choices.get("experiment")
    return None if chosen is None else str(chosen)


def is_main_process() -> bool:
    """Return True in the first process of torchrun, or in the only process."""
    return int(os.environ.get("RANK", 0)) == 0
