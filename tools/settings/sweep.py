"""`detector train --multirun`: sweeps by Hydra's sweepers and launchers, a folder for each run, a table of results."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from torch.utils.tensorboard import SummaryWriter

from detector.configs.compose import (
    checked,
    hydra_words,
    load_config,
    override_config,
    read_config,
    start_from_saved,
    sweep,
    sweep_folder,
)
from detector.configs.errors import ConfigError
from detector.configs.paths import hydra_value
from detector.engine.checkpoint import newest_checkpoint, write_atomically
from detector.pipeline.resume import value_of, with_dataset
from detector.tools.settings.application import (
    Command,
    Task,
    call_hydra,
    chosen_experiment,
    is_main_process,
    objective,
)
from detector.tools.settings.command_line import CommandLine
from detector.tools.settings.exit_codes import EXPECTED_ERRORS, FAILED, INTERRUPTED, exit_code, print_error

OUTCOMES = {0: "done", 1: "failed", 2: "refused", 3: "stopped", 4: "loss not finite"}
OUTCOME_FILE = "outcome.json"  # in each run's folder: job number, settings, exit code


class StoppedError(RuntimeError):
    """A signal stopped a run that a launcher started in another process or on another machine."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a sweep that has ended."""

    folder: Path
    number: int
    overrides: list[str]
    code: int


def run_sweep(name: str, line: CommandLine, command: Command) -> int:
    """Run a command on every combination of settings, or on those that Hydra's sweeper chooses.

    If a run fails, the others still run; a signal stops all. Write summary.txt and summary.json into the sweep's
    folder, and TensorBoard's hparams into each run's. Return the first exit code that is not 0, else 0.

    Raises ConfigError for a wrong combination, before the first run.
    """
    overrides, base = _checked_sweep(line)
    given = value_of("output_dir", overrides)
    if given is not None and any(word.startswith("hydra.sweep.dir=") for word in line.hydra):
        raise ConfigError(f"hydra.sweep.dir= and output_dir={given} both name the sweep's folder: give one of them")
    own = [] if given is None else [f"hydra.sweep.dir={hydra_value('output_dir', given)}"]
    if not is_main_process():
        own.append("hydra.output_subdir=null")
    if "hydra/sweeper=optuna" in line.hydra and not any("hydra.sweeper.direction=" in word for word in line.hydra):
        own.append("hydra.sweeper.direction=maximize")  # a run returns its mAP
    folder = sweep_folder([*own, f"hydra.job.name={name}", *line.hydra])
    for file in folder.glob(f"**/{OUTCOME_FILE}"):
        file.unlink()
    words = [*hydra_words(overrides, sweeping=True), *own]
    failure: BaseException | None = None
    try:
        call_hydra(name, line, words, partial(sweep_task, command=command), base)
    except (*EXPECTED_ERRORS, RuntimeError, KeyboardInterrupt) as error:
        failure = error
    runs = ended_runs(folder)
    codes = [run.code for run in runs if run.code]
    if failure is not None and not codes:
        raise failure
    _summarize(folder, runs)
    return codes[0] if codes else 0


def sweep_task(composed: DictConfig, *, command: Command) -> float:
    """Run the command once and return the mAP. A launcher may call this in another process or on another machine.

    Raises the command's errors.
    """
    hydra = HydraConfig.get()
    folder, code = Path(hydra.sweep.dir, hydra.sweep.subdir), FAILED
    try:
        code = command(_task(checked(composed), folder))
    except EXPECTED_ERRORS as error:
        code = exit_code(error)
        print_error(error)
        raise
    finally:
        if is_main_process():
            _write_outcome(Run(folder, int(hydra.job.num), [str(word) for word in hydra.overrides.task], code))
    if code == INTERRUPTED:
        if hydra.runtime.choices["hydra/launcher"] == "basic":
            raise SystemExit(code)  # ends the whole sweep
        raise StoppedError(f"{folder} was stopped by a signal after saving; to continue, run it with resume=auto")
    return objective(folder)


def _task(config: Any, folder: Path) -> Task:
    """Return the task of a sweep's run. With resume=auto it resumes the newest checkpoint in the run's folder."""
    found = newest_checkpoint(folder) if config.resume == "auto" else None
    resume = None if found is None else str(folder)
    config = replace(config, output_dir=str(folder), resume=resume)
    return Task(config, folder, None if found is None else found[1], chosen_experiment())


def _checked_sweep(line: CommandLine) -> tuple[list[str], str | None]:
    """Check every combination. Return the settings of the sweep, and the name of the saved config, if any.

    Combinations that another sweeper chooses later cannot be checked here.
    """
    resume, saved = value_of("resume", line.overrides), value_of("config", line.overrides)
    if resume not in (None, "auto"):
        raise ConfigError(f"resume={resume} continues a single run; to continue a sweep, give resume=auto")
    overrides = [word for word in line.overrides if not word.startswith("config=")]
    plain = None if saved is None else read_config(Path(saved))
    if plain is None:
        overrides = with_dataset(overrides)
    if not any(word.startswith("hydra/sweeper=") for word in line.hydra):
        for words in sweep(overrides):
            if plain is None:
                load_config(words, line.search)
            else:
                override_config(plain, words, line.search)
    return overrides, None if plain is None else start_from_saved(plain)


def ended_runs(folder: Path) -> list[Run]:
    """Return the runs of a sweep that have ended, in the order of their numbers."""
    found = []
    for file in folder.glob(f"**/{OUTCOME_FILE}"):
        content = json.loads(file.read_text())
        found.append(Run(file.parent, content["job"], content["overrides"], content["code"]))
    return sorted(found, key=lambda run: run.number)


def _write_outcome(run: Run) -> None:
    """Write a run's outcome, and the summary of all runs that have ended so far."""
    content = {"job": run.number, "overrides": run.overrides, "code": run.code}
    write_atomically(run.folder / OUTCOME_FILE, lambda file: file.write(json.dumps(content).encode()))
    parent = Path(HydraConfig.get().sweep.dir)
    _write(parent, rows_of(parent, ended_runs(parent)))


def _summarize(folder: Path, runs: Sequence[Run]) -> None:
    rows, changed = rows_of(folder, runs), varied(runs)
    for run, settings in zip(runs, changed, strict=True):
        if run.code == 0:
            _write_hparams(run.folder, settings, _metrics(run.folder))
    _write(folder, rows)
    print(f"\n{table(rows)}\nsummary in {folder / 'summary.txt'}", file=sys.stderr)


def rows_of(folder: Path, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return one row for each run: the varied settings, the outcome and the metrics."""
    return [
        {
            "run": str(run.folder.relative_to(folder)),
            **settings,
            "outcome": OUTCOMES.get(run.code, f"exit {run.code}"),
            **(_metrics(run.folder) if run.code == 0 else {}),
        }
        for run, settings in zip(runs, varied(runs), strict=True)
    ]


def varied(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Return, for each run, its settings that are not the same in all runs."""
    settings = [{key: value_of(key, run.overrides) or "" for key in _keys(run.overrides)} for run in runs]
    keys = dict.fromkeys(key for own in settings for key in own)
    changing = [key for key in keys if len({own.get(key) for own in settings}) > 1]
    return [{key: own[key] for key in changing if key in own} for own in settings]


def _keys(overrides: Sequence[str]) -> list[str]:
    return [word.partition("=")[0] for word in overrides]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as aligned columns, with numbers aligned right."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in [names, *cells]) for i in range(len(names))]
    right = [all(isinstance(row.get(name, 0), int | float) for row in rows) for name in names]
    columns = list(zip(widths, right, strict=True))
    return "\n".join(
        "  ".join(
            f"{cell:{'>' if number else '<'}{width}}" for cell, (width, number) in zip(line, columns, strict=True)
        )
        for line in [names, *cells]
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _metrics(folder: Path) -> dict[str, float | int]:
    """Return the main values of a run's metrics.json: mAP by protocol, minutes and steps."""
    content = json.loads((folder / "metrics.json").read_text())
    metrics = {name: value.get("mAP") for name, value in content.items() if isinstance(value, dict)}
    metrics |= {name: content.get(name) for name in ("minutes", "step")}
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)}


def _write(parent: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_atomically(parent / "summary.txt", lambda file: file.write((table(rows) + "\n").encode()))
    write_atomically(parent / "summary.json", lambda file: file.write((json.dumps(rows, indent=2) + "\n").encode()))


def _write_hparams(folder: Path, settings: dict[str, str], metrics: dict[str, float | int]) -> None:
    """Write the run's row of TensorBoard's hyperparameter page."""
    with SummaryWriter(str(folder / "tensorboard")) as writer:
        finite = {f"hparam/{name}": value for name, value in metrics.items() if math.isfinite(value)}
        writer.add_hparams(settings, finite, run_name=".")
