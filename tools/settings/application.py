"""`detector train` and `detector alternate` as applications of Hydra: its main, its run folder, its search path.

What a line starts from is found before Hydra is called, since a run that goes on has settings of its own: they become
the config that Hydra starts from. So every wrong word is answered in one line, and Hydra composes what is known to be
right.
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
    """What a command is to do once."""

    config: Config
    folder: Path
    checkpoint: dict[str, Any] | None  # to go on from
    experiment: str | None  # the name of the experiment that the config is made of


Command = Callable[[Task], int]  # returns an exit code


def run_once(name: str, line: CommandLine, start: Start, command: Command) -> int:
    """Runs a command under Hydra and returns its exit code; or prints what Hydra's options ask for.

    Raises ConfigError for Hydra's settings, and whatever the command raises.
    """
    folder = start.config.output_dir
    words = list(start.overrides)
    if start.checkpoint is not None:
        words += [f"output_dir={folder}", f"resume={folder}"]
    if folder is not None and any(word.startswith("hydra.run.dir=") for word in line.hydra):
        raise ConfigError(f"hydra.run.dir= and output_dir={folder} both name the run's folder: give one of them")
    own = [] if folder is None else [f"hydra.run.dir={hydra_value('output_dir', folder)}"]
    if not is_main_process():  # the main process makes the folder, and its name
        own = ["hydra.run.dir=.", "hydra.output_subdir=null"]
    codes: list[int] = []
    errors: list[Exception] = []

    def task(composed: DictConfig) -> float:
        path = Path(HydraConfig.get().run.dir)
        try:
            codes.append(command(Task(checked(composed), path, start.checkpoint, chosen_experiment())))
        except Exception as error:  # Hydra would tell it in its own words
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
    """Calls Hydra's own main with the words of a line and returns its exit code.

    `base` names the config to start from, if not the shipped one. Raises ConfigError for what Hydra refuses.
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
    """Hydra's own main on a command line, with the configs of this project. Raises what Hydra raises."""
    GlobalHydra.instance().clear()
    with _logging_as_before(), _command_line(words):
        hydra.main(version_base="1.3", config_path="pkg://detector.configs", config_name=config_name)(task)()


@contextmanager
def _logging_as_before() -> Iterator[None]:
    """Hydra sets up logging for the whole process; afterwards it is as it was."""
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
    """Hydra's main reads the program's words, and with this variable it raises its errors instead of printing them."""
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
    """The mAP in a run's metrics.json, by which checkpoints are compared too; not a number where there is none."""
    file = folder / "metrics.json"
    figures = json.loads(file.read_text()) if file.is_file() else {}
    mean = figures.get("voc07_11point", {}).get("mAP")
    return float("nan") if mean is None else float(mean)


def chosen_experiment() -> str | None:
    """The name of the experiment of the job that Hydra runs."""
    chosen = HydraConfig.get().runtime.choices.get("experiment")
    return None if chosen is None else str(chosen)


def is_main_process() -> bool:
    """Whether this is the first of the processes that torchrun started, or the only one."""
    return int(os.environ.get("RANK", 0)) == 0
