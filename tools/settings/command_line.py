"""Parse the words after `detector train` or `detector alternate`: settings, Hydra's settings, Hydra's options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detector.configs.errors import ConfigError
from detector.configs.paths import hydra_value, quoted

FLAGS = ("-m", "--multirun", "--resolve")
WITH_VALUE = ("-c", "--cfg", "-p", "--package", "-cd", "--config-dir")
WITH_CHOICE = ("-i", "--info")  # the value is optional
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
HELP = ("-h", "--help")
MODES = ("-m", "--multirun", "-c", "--cfg", "-i", "--info")  # one at a time
HYDRA_SETTING = re.compile(r"[+~]*hydra[./]")
CFG = ("job", "hydra", "all")
# Hydra's settings that accept new keys.
OPEN = re.compile(r"\+{1,2}hydra\.(sweeper\.params|launcher|callbacks|job\.env_set|job_logging|hydra_logging)[.=]")


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A parsed command line."""

    overrides: list[str]  # settings of this project
    hydra: list[str]  # Hydra's: hydra.run.dir=..., hydra/launcher=...
    options: list[str]  # Hydra's: --multirun, --cfg job, ...
    help: list[str]  # -h and --help, if given
    config_dir: Path | None  # a folder with the user's configs

    @property
    def multirun(self) -> bool:
        """Whether the command line asks for several runs."""
        return bool({"-m", "--multirun"} & set(self.options)) or "hydra.mode=MULTIRUN" in self.hydra

    @property
    def search(self) -> list[str]:
        """The word that adds the user's folders to Hydra's search path; empty if there are none."""
        given = [word for word in self.hydra if word.startswith("hydra.searchpath=")]
        if self.config_dir is None:
            return given
        return [f"hydra.searchpath=[{quoted(f'file://{self.config_dir.absolute()}')}]"]


def read_line(words: Sequence[str]) -> CommandLine:
    """Parse the words of a command line. Raises ConfigError for an unknown option or a missing value."""
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
                raise ConfigError(f"{word}: needs a value, for example {word} {'FOLDER' if 'd' in word[2:] else 'job'}")
            if word in ("-cd", "--config-dir"):
                config_dir = Path(rest.pop(0)).expanduser()
            else:
                line.options.extend([word, rest.pop(0)])
                if word in ("-c", "--cfg") and line.options[-1] not in CFG:
                    raise ConfigError(f"{word} {line.options[-1]}: expected one of {', '.join(CFG)}")
        elif word.startswith("-"):
            known = ", ".join(option for option in (*HELP, *FLAGS, *WITH_VALUE, *WITH_CHOICE) if option[:2] == "--")
            raise ConfigError(f"{word}: no such option; write settings as key=value; options are {known}")
        elif HYDRA_SETTING.match(word):
            line.hydra.append(_checked_setting(word))
        else:
            line.overrides.append(word)
    chosen = [word for word in line.options if word in MODES]
    if len(chosen) > 1:
        raise ConfigError(f"{' '.join(chosen)}: give one of them")
    if "--resolve" in line.options and not {"-c", "--cfg"} & set(line.options):
        raise ConfigError("--resolve: needs --cfg, for example --cfg job --resolve")
    if config_dir is not None and not config_dir.is_dir():
        raise ConfigError(f"--config-dir {config_dir}: no such folder; give one with experiment/NAME.yaml or similar")
    if config_dir is not None and any(word.startswith("hydra.searchpath=") for word in line.hydra):
        raise ConfigError("--config-dir and hydra.searchpath= both name folders of configs: give one of them")
    return CommandLine(line.overrides, line.hydra, line.options, line.help, config_dir)


def _checked_setting(word: str) -> str:
    """Return a setting of Hydra. Quote its value if the setting names a folder.

    Raises ConfigError for `+` or `~` before a key whose change Hydra would not read.
    """
    key, _, value = word.partition("=")
    if key[0] in "+~" and not OPEN.match(word):
        raise ConfigError(f"{word}: Hydra's settings allow no + or ~ here; write hydra.KEY=VALUE")
    return f"{key}={hydra_value(key, value)}" if key in ("hydra.run.dir", "hydra.sweep.dir") else word


def _separated(words: Sequence[str]) -> list[str]:
    """Split each `--option=value` into two words."""
    parts = [
        word.split("=", 1) if word.startswith("--") and word.split("=")[0] in (*WITH_VALUE, *WITH_CHOICE) else [word]
        for word in words
    ]
    return [part for pair in parts for part in pair]
