"""The entry points of `train`, `plan` and `alternate`."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from detector.configs.errors import ConfigError
from detector.tools.settings.exit_codes import DONE, INTERRUPTED
from detector.tools.settings.help import shows_help
from detector.tools.settings.own_words import split_words

if TYPE_CHECKING:
    from detector.tools.settings.command_line import CommandLine


def run_train(words: list[str]) -> int:
    """Run `train`: by a plan for `data=FOLDER`, else with the settings as they are."""
    from detector.tools.settings.command_line import read_line

    line = read_line(words)
    if shows_help([*line.overrides, *line.help], own=("config", "data")):
        return DONE
    if _is_planned(line.overrides):
        return _train_planned(line)
    line = replace(line, overrides=_with_data_settings(line.overrides))
    if line.multirun:
        from detector.tools.commands.train import train
        from detector.tools.settings.sweep import run_sweep

        return run_sweep("train", line, train)
    from detector.pipeline.resume import find_start
    from detector.tools.settings.application import run_once

    start = find_start(line.overrides, line.search)
    from detector.tools.commands.train import train

    return run_once("train", line, start, train)


def _is_planned(words: list[str]) -> bool:
    """Return True if the words ask for a plan: they name a folder of photographs, but no recipe and no saved run."""
    given = {key: value for key, _, value in (word.partition("=") for word in words)}
    return "data" in given and not given.keys() & {"experiment", "config"} and given.get("resume", "auto") == "auto"


def _with_data_settings(words: list[str]) -> list[str]:
    """Replace `data=FOLDER`, if given, by the settings that read FOLDER. Raises ConfigError for a saved run."""
    rest, own = split_words(words, ("data",))
    if not own["data"]:
        return words
    saved = [word for word in words if word.startswith(("resume=", "config="))]
    if saved:
        raise ConfigError(f"{saved[0]}: a saved run has its own data; remove data=, or start a run without {saved[0]}")
    return ["dataset=auto", f"dataset.root={own['data']}", *rest]


def _train_planned(line: CommandLine) -> int:
    started = time.monotonic()
    if line.multirun:
        raise ConfigError("data= makes one plan, without --multirun; to sweep over it, give config=RUN/config.yaml")
    rest, own = split_words(line.overrides, ("data", "resume"))
    if not own["data"]:
        raise ConfigError("data= is empty; give a folder of annotated photographs")
    unread = [*line.options, *line.hydra, *([] if line.config_dir is None else ["--config-dir"])]
    if unread:
        option = unread[0].partition("=")[0]
        raise ConfigError(
            f"{option}: data= makes a plan and does not read Hydra's options and settings; leave it out; "
            "`detector plan data=FOLDER` prints the settings"
        )
    from detector.pipeline.resume import find_planned_start

    start = find_planned_start(own["data"], rest) if own["resume"] else None
    from detector.engine.trainer import Outcome
    from detector.pipeline.planned_training import run_planned_training
    from detector.tools.commands.train import finish_run, resume_run

    if start is not None:
        outcome, _ = resume_run(start)
    else:
        outcome, _ = run_planned_training(own["data"], rest, started=started, finish=finish_run)
    return INTERRUPTED if outcome is Outcome.interrupted else DONE


def run_plan(words: list[str]) -> int:
    """Run `plan`. The command reads `data`; the other words are settings of the training."""
    rest, own = split_words(words, ("data",))
    if shows_help(rest):
        return DONE
    if not own["data"]:
        raise ConfigError("plan needs data=FOLDER, a folder of annotated photographs")
    from detector.tools.commands.plan import print_plan

    print_plan(own["data"], rest)
    return DONE


def run_alternate(words: list[str]) -> int:
    """Run `alternate`, under Hydra like `train`."""
    from detector.tools.settings.command_line import read_line

    line = read_line(words)
    if shows_help([*line.overrides, *line.help]):
        return DONE
    if any(word.startswith("resume=") for word in line.overrides):
        raise ConfigError("resume=: alternate resumes without it; give the output_dir= of the first start")
    if line.multirun:
        from detector.tools.commands.alternate import alternate
        from detector.tools.settings.sweep import run_sweep

        return run_sweep("alternate", line, alternate)
    from detector.configs.compose import load_config
    from detector.pipeline.resume import Start
    from detector.tools.settings.application import run_once

    start = Start(load_config(line.overrides, line.search), None, None, line.overrides)
    from detector.tools.commands.alternate import alternate

    return run_once("alternate", line, start, alternate)
