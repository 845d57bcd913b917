"""What a `detector train` line starts from: its own settings, a saved config, a run, or the newest whole checkpoint.

torch is loaded only where a checkpoint is read: a wrong setting is answered without it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detector.configs.compose import load_config, override_config, read_config
from detector.configs.errors import ConfigError
from detector.configs.paths import plain_text
from detector.configs.schema import AutoDatasetConfig, Config

log = logging.getLogger("detector")

RUNS = Path("runs")


@dataclass(frozen=True, slots=True)
class Start:
    """How a run begins."""

    config: Config
    checkpoint: dict[str, Any] | None  # to go on from; None: at step 0
    base: dict[str, Any] | None  # the saved settings that the config is made of; None: the shipped defaults
    overrides: list[str]  # what is applied to them


def find_start(words: Sequence[str], search: Sequence[str] = ()) -> Start:
    """The start that the words of a command line mean.

    `resume=FOLDER` goes on with that run, under its own settings with the overrides applied. `resume=auto` goes on with
    the newest whole checkpoint of `output_dir`, else of runs/, and starts anew where there is none: the same line
    begins a run and takes it up again; so does any line with an output_dir when torchrun starts it anew. `config=FILE`
    repeats the run whose config.yaml it is, in a folder of its own. `search` is as of `load_config`.

    Raises ConfigError for words that cannot be meant, ValueError where a checkpoint is missing or damaged.
    """
    resume, config_file = value_of("resume", words), value_of("config", words)
    overrides = [word for word in words if not word.startswith(("resume=", "config="))]
    if resume is not None and config_file is not None:
        raise ConfigError("resume= and config= are two starts: the first goes on with a run, the second repeats one")
    if resume == "auto" or (resume is None and _restarted() and value_of("output_dir", overrides) is not None):
        return _newest(overrides, search)
    if resume is not None:
        from detector.engine.checkpoint import load_checkpoint

        folder = Path(resume)
        if folder.is_file():
            raise ConfigError(f"resume={folder} is a file; resume=FOLDER goes on with a run, weights=FILE starts anew")
        return _go_on(folder, load_checkpoint(folder), overrides, search)
    if config_file is not None:
        saved = read_config(Path(config_file))
        return Start(override_config(saved, overrides, search), None, saved, overrides)
    overrides = with_dataset(overrides)
    return Start(load_config(overrides, search), None, None, overrides)


def with_dataset(overrides: Sequence[str]) -> list[str]:
    """The overrides; those of the demonstration where they name no dataset."""
    if _says_what_to_train(overrides):
        return list(overrides)
    log.warning("no dataset given: training the demonstration (experiment=demo)")
    return ["experiment=demo", *overrides]


def value_of(key: str, words: Sequence[str]) -> str | None:
    """The value of the last `key=value` among the words, as text."""
    return next((plain_text(word.partition("=")[2]) for word in reversed(words) if word.startswith(f"{key}=")), None)


def require_same_classes(checkpoint: dict[str, Any], classes: Sequence[str], source: str) -> None:
    """Raises ValueError unless a run goes on with the classes that it began with, in their order.

    As many classes under other names have the same shapes: every tensor would fit, and each class be taken for another.
    """
    known = checkpoint["classes"]
    if list(classes) != known:
        raise ValueError(
            f"resume={source}: the run has {len(known)} classes ({', '.join(known)}), the dataset now has "
            f"{len(classes)} ({', '.join(classes)}): give it the run's classes in that order (dataset.classes of a VOC "
            f"folder), or start a new run with a new head: weights={source} weights_skip=[head]"
        )


def _newest(overrides: list[str], search: Sequence[str]) -> Start:
    from detector.engine.checkpoint import newest_checkpoint

    given = value_of("output_dir", overrides)
    folder, pattern = (RUNS, "**/checkpoints/*.pt") if given is None else (Path(given), "checkpoints/*.pt")
    found = newest_checkpoint(folder, pattern)
    if found is not None:
        path, content = found
        log.warning("resume=auto: going on from %s, step %d", path, content["step"])
        return _go_on(path.parent.parent, content, overrides, search)
    if not _says_what_to_train(overrides):
        raise ConfigError(f"resume=auto: no checkpoint in {folder}, and no dataset or experiment to start a run with")
    log.warning("resume=auto: no checkpoint in %s, starting anew", folder)
    return Start(load_config(overrides, search), None, None, overrides)


def _go_on(folder: Path, content: dict[str, Any], overrides: list[str], search: Sequence[str]) -> Start:
    """A run taken up under its own settings and the overrides; with an experiment among them, under these alone."""
    rest = [word for word in overrides if not word.startswith("output_dir=")]
    whole = any(word.startswith("experiment=") for word in rest)
    config = load_config(rest, search) if whole else override_config(content["config"], rest, search)
    going_on = replace(config, output_dir=str(folder), resume=str(folder))
    split = folder / "split.json"  # found beside the run, wherever it was moved
    if isinstance(config.dataset, AutoDatasetConfig) and split.is_file():
        going_on = replace(going_on, dataset=replace(config.dataset, split_file=str(split)))
    return Start(going_on, content, None if whole else content["config"], rest)


def _restarted() -> bool:
    """Whether torchrun has lost a process of this run and started all of them anew."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def _says_what_to_train(overrides: Sequence[str]) -> bool:
    return any(word.startswith(("dataset", "experiment=")) for word in overrides)
