"""Start of `detector train`: from given settings, a saved config, a run, or the newest intact checkpoint.

torch is imported only to read a checkpoint, so that the error for a wrong setting comes without this delay.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detector.configs.compose import load_config, override_config, read_config
from detector.configs.errors import ConfigError
from detector.configs.paths import plain_text
from detector.configs.schema import Config

log = logging.getLogger("detector")

RUNS = Path("runs")


@dataclass(frozen=True, slots=True)
class Start:
    """How a run begins."""

    config: Config
    checkpoint: dict[str, Any] | None  # to resume from; None: start at step 0
    base: dict[str, Any] | None  # the saved settings that the config is made from; None: the shipped defaults
    overrides: list[str]  # applied to `base`


def find_start(words: Sequence[str], search: Sequence[str] = ()) -> Start:
    """Return the start for the words of a command line.

    `resume=FOLDER` resumes that run with its saved settings and the overrides. `resume=auto` resumes from the newest
    intact checkpoint in `output_dir`, else in runs/. Without a checkpoint it starts a new run. So the same command can
    start and resume a run. A command with an output_dir does the same if torchrun restarts it. `config=FILE` repeats
    the run of this config.yaml in a new folder. `search` is as in `load_config`.

    Raises ConfigError for invalid words, ValueError if a checkpoint is missing or damaged.
    """
    resume, config_file = value_of("resume", words), value_of("config", words)
    overrides = [word for word in words if not word.startswith(("resume=", "config="))]
    if resume is not None and config_file is not None:
        raise ConfigError("expected resume= or config=, got both; resume= continues a run, config= repeats one")
    if resume == "auto" or (resume is None and _restarted() and value_of("output_dir", overrides) is not None):
        return _start_from_newest(overrides, search)
    if resume is not None:
        from detector.engine.checkpoint import load_checkpoint

        folder = Path(resume)
        if folder.is_file():
            raise ConfigError(
                f"resume={folder} is a file; give a run's folder (resume=FOLDER), or start a new run with weights=FILE"
            )
        return _resume(folder, load_checkpoint(folder), overrides, search)
    if config_file is not None:
        saved = read_config(Path(config_file))
        return Start(override_config(saved, overrides, search), None, saved, overrides)
    overrides = with_dataset(overrides)
    return Start(load_config(overrides, search), None, None, overrides)


def find_planned_start(folder: str, words: Sequence[str]) -> Start | None:
    """Return the start that resumes the planned run in `output_dir`; None if it has no checkpoint yet.

    `folder` holds the photographs, and `words` are the settings of the command line, without `resume=auto`. Those that
    the run began with change nothing. So the same command starts and resumes a run.

    Raises ConfigError if `words` have no output_dir, or the run was trained on another folder.
    """
    run = value_of("output_dir", words)
    if run is None:
        raise ConfigError("resume=auto with data= needs output_dir=FOLDER, the folder of the run")
    if not any(Path(run).glob("checkpoints/*.pt")):
        log.warning("resume=auto: no checkpoint in %s, starting a new run", run)
        return None
    plan = Path(run) / "plan.json"
    known = json.loads(plan.read_text()).get("words", []) if plan.is_file() else []
    start = _start_from_newest([f"output_dir={run}", *(word for word in words if word not in known)], ())
    trained = getattr(start.config.dataset, "root", None)
    if trained is None or Path(trained).resolve() != Path(plain_text(folder)).resolve():
        raise ConfigError(f"data={folder}: the run in {run} was trained on {trained}; give another output_dir")
    return start


def with_dataset(overrides: Sequence[str]) -> list[str]:
    """Return the overrides, with those of the demonstration if they name no dataset."""
    if _names_dataset(overrides):
        return list(overrides)
    log.warning("no dataset given: training the demonstration (experiment=demo)")
    return ["experiment=demo", *overrides]


def value_of(key: str, words: Sequence[str]) -> str | None:
    """Return the value of the last `key=value` in the words, as text, or None."""
    return next((plain_text(word.partition("=")[2]) for word in reversed(words) if word.startswith(f"{key}=")), None)


def require_same_classes(checkpoint: dict[str, Any], classes: Sequence[str], source: str) -> None:
    """Raise ValueError unless the dataset has the classes of the resumed run, in the same order.

    Tensor shapes do not show the error: with the same number of other classes every tensor fits, but names are wrong.
    """
    known = checkpoint["classes"]
    if list(classes) != known:
        raise ValueError(
            f"resume={source}: the run has {len(known)} classes ({', '.join(known)}), the dataset now has "
            f"{len(classes)} ({', '.join(classes)}): use the run's classes in that order (dataset.classes of a VOC "
            f"folder), or start a new run with a new head: weights={source} weights_skip=[head]"
        )


def _start_from_newest(overrides: list[str], search: Sequence[str]) -> Start:
    from detector.engine.checkpoint import newest_checkpoint

    given = value_of("output_dir", overrides)
    folder, pattern = (RUNS, "**/checkpoints/*.pt") if given is None else (Path(given), "checkpoints/*.pt")
    found = newest_checkpoint(folder, pattern)
    if found is not None:
        path, content = found
        log.warning("resume=auto: resuming from %s, step %d", path, content["step"])
        return _resume(path.parent.parent, content, overrides, search)
    if not _names_dataset(overrides):
        raise ConfigError(f"resume=auto: no checkpoint in {folder}; to start a new run, give dataset= or experiment=")
    log.warning("resume=auto: no checkpoint in %s, starting a new run", folder)
    return Start(load_config(overrides, search), None, None, overrides)


def _resume(folder: Path, content: dict[str, Any], overrides: list[str], search: Sequence[str]) -> Start:
    """Return a start that resumes a run with its saved settings. If the overrides have an experiment, use only them."""
    rest = [word for word in overrides if not word.startswith("output_dir=")]
    has_experiment = any(word.startswith("experiment=") for word in rest)
    saved = with_own_split(content["config"], folder)
    config = load_config(rest, search) if has_experiment else override_config(saved, rest, search)
    resumed = replace(config, output_dir=str(folder), resume=str(folder))
    return Start(resumed, content, None if has_experiment else saved, rest)


def with_own_split(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the saved config of the run in `folder` with its split.json. The run may have moved since it was saved."""
    split, dataset = folder / "split.json", config.get("dataset")
    if not isinstance(dataset, dict) or dataset.get("split_file") is None or not split.is_file():
        return config
    return {**config, "dataset": {**dataset, "split_file": str(split)}}


def _restarted() -> bool:
    """Return True if torchrun lost a process of this run and restarted all processes."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def _names_dataset(overrides: Sequence[str]) -> bool:
    return any(word.startswith(("dataset", "experiment=")) for word in overrides)
