"""The words after `detector train` or `detector alternate`, sorted: settings, Hydra's settings, Hydra's options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detector.configs.errors import ConfigError
from detector.configs.paths import hydra_value, quoted

FLAGS = ("-m", "--multirun", "--resolve")
WITH_VALUE = ("-c", "--cfg", "-p", "--package", "-cd", "--config-dir")
WITH_CHOICE = ("-i", "--info")  # their value may be left out
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
HELP = ("-h", "--help")
MODES = ("-m", "--multirun", "-c", "--cfg", "-i", "--info")  # one at a time
HYDRA_SETTING = re.compile(r"[+~]*hydra[./]")
CFG = ("job", "hydra", "all")
# Those of Hydra's settings that take new keys.
OPEN = re.compile(r"\+{1,2}hydra\.(sweeper\.params|launcher|callbacks|job\.env_set|job_logging|hydra_logging)[.=]")


@dataclass(frozen=True, slots=True)
class CommandLine:
    """One command line."""

    overrides: list[str]  # settings of this project
    hydra: list[str]  # Hydra's: hydra.run.dir=..., hydra/launcher=...
    options: list[str]  # Hydra's: --multirun, --cfg job, ...
    help: list[str]  # --help, where it is asked for
    config_dir: Path | None  # a folder of the user's own configs

    @property
    def multirun(self) -> bool:
        return bool({"-m", "--multirun"} & set(self.options)) or "hydra.mode=MULTIRUN" in self.hydra

    @property
    def search(self) -> list[str]:
        """The word that opens Hydra's search path to the user's own folders; none where there are none."""
        given = [word for word in self.hydra if word.startswith("hydra.searchpath=")]
        if self.config_dir is None:
            return given
        return [f"hydra.searchpath=[{quoted(f'file://{self.config_dir.absolute()}')}]"]


def read_line(words: Sequence[str]) -> CommandLine:
    """The words of a command line, sorted. Raises ConfigError for an option that is not known or lacks its value."""
    line = CommandLine([], [], [], [], None)
    config_dir, rest = None, _separated(words)
    while rest:
        word = rest.pop(0)
        if word in HELP:
            line.help.append(word)
        elif word in FLAGS:
            line.options.append(word)
        elif word in WITH_CHOICE:
            line.options.extend([word, rest.pop(0) if rest and rest[0] in INFO else "all"])
        elif word in WITH_VALUE:
            if not rest:
                raise ConfigError(f"{word}: needs a value, as in {word} {'FOLDER' if 'd' in word[2:] else 'job'}")
            if word in ("-cd", "--config-dir"):
                config_dir = Path(rest.pop(0)).expanduser()
            else:
                line.options.extend([word, rest.pop(0)])
                if word in ("-c", "--cfg") and line.options[-1] not in CFG:
                    raise ConfigError(f"{word} {line.options[-1]}: expected one of {', '.join(CFG)}")
        elif word.startswith("-"):
            known = ", ".join(option for option in (*HELP, *FLAGS, *WITH_VALUE, *WITH_CHOICE) if option[:2] == "--")
            raise ConfigError(f"{word}: no such option; settings are given as key=value, options are {known}")
        elif HYDRA_SETTING.match(word):
            line.hydra.append(_with_folder(word))
        else:
            line.overrides.append(word)
    chosen = [word for word in line.options if word in MODES]
    if len(chosen) > 1:
        raise ConfigError(f"{' '.join(chosen)}: give one of them")
    if "--resolve" in line.options and not {"-c", "--cfg"} & set(line.options):
        raise ConfigError("--resolve: goes with --cfg, as in --cfg job --resolve")
    if config_dir is not None and not config_dir.is_dir():
        raise ConfigError(f"--config-dir {config_dir}: no such folder; it holds experiment/NAME.yaml and the like")
    if config_dir is not None and any(word.startswith("hydra.searchpath=") for word in line.hydra):
        raise ConfigError("--config-dir and hydra.searchpath= both name folders of configs: give one of them")
    return CommandLine(line.overrides, line.hydra, line.options, line.help, config_dir)


def _with_folder(word: str) -> str:
    """A word of Hydra's; one that names a folder takes its text as it is.

    Raises ConfigError for a key that is added or removed where Hydra would not read it.
    """
    key, _, value = word.partition("=")
    if key[0] in "+~" and not OPEN.match(word):
        raise ConfigError(f"{word}: Hydra's settings are fixed here; nothing would come of it. Write hydra.KEY=VALUE")
    return f"{key}={hydra_value(key, value)}" if key in ("hydra.run.dir", "hydra.sweep.dir") else word


def _separated(words: Sequence[str]) -> list[str]:
    """The words with `--option=value` as two."""
    parts = [
        word.split("=", 1) if word.startswith("--") and word.split("=")[0] in (*WITH_VALUE, *WITH_CHOICE) else [word]
        for word in words
    ]
    return [part for pair in parts for part in pair]
