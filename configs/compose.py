"""Turns command-line overrides into a checked config. Only this file uses Hydra.

`detector train key=value ...` composes the YAML groups of `detector.configs`. A command with a trained model starts
from the config saved in that model and applies the overrides to it. An error message about an override is one line: it
names the wrong key and the nearest known key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from detector.configs.choices import CONFIG_FOLDER, choices
from detector.configs.errors import ConfigError
from detector.configs.groups import GROUPS, NEWER_GROUPS, structured, to_config
from detector.configs.keys import check_words, hydra_word, nearest
from detector.configs.schema import Config


@cache
def register_schemas() -> None:
    """Register the schema of every kind with Hydra."""
    store = ConfigStore.instance()
    store.store(name="config_schema", node=Config)
    for group, kinds in GROUPS.items():
        for kind, node in kinds.items():
            store.store(group=group, name=f"{kind}_schema", node=node)


SAVED = "saved"  # the name, in Hydra's store, of a saved config and of each of its groups


def load_config(overrides: Sequence[str], search: Sequence[str] = ()) -> Config:
    """Return the config that the shipped defaults and the overrides compose.

    `search` is empty, or one argument `hydra.searchpath=[...]` with more folders of configs. Raises ConfigError.
    """
    check_words(overrides)
    return checked(_compose(overrides, search))


def override_config(plain: dict[str, Any], overrides: Sequence[str], search: Sequence[str] = ()) -> Config:
    """Return a saved config with the overrides applied. `group=choice` replaces the whole group. Raises ConfigError.

    `search` is the same as for `load_config`.
    """
    check_words(overrides)
    try:
        config = structured(plain)
    except OmegaConfBaseException as error:
        raise ConfigError(f"saved settings: {explain_error(error, '', _defaults())}") from error
    parsed = _parse(overrides)
    for line, item in zip(overrides, parsed, strict=True):
        if item.key_or_group == "experiment":
            raise ConfigError(f"{line}: a saved run already has settings; leave the experiment out, or start a new run")
    groups = {item.key_or_group for item in parsed if item.key_or_group in GROUPS}
    if groups:
        fresh = _compose([line for line, item in zip(overrides, parsed, strict=True) if _head(item) in groups], search)
        for group in groups:
            config[group] = fresh[group]
    for line, item in zip(overrides, parsed, strict=True):
        if _head(item) not in groups:
            try:
                OmegaConf.update(config, item.key_or_group, item.value(), merge=True)
            except OmegaConfBaseException as error:
                raise ConfigError(explain_error(error, line, config)) from error
    return checked(config)


def read_config(path: Path) -> dict[str, Any]:
    """Return the plain values of a run's config.yaml, without its output folder.

    `path` is the file or the run's folder. Raises ConfigError if the file is missing or has other content.
    """
    path = path / "config.yaml" if path.is_dir() else path
    try:
        plain = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ConfigError(f"config={path}: cannot be read ({reason}); give a run's config.yaml") from error
    if not isinstance(plain, dict) or not GROUPS.keys() - NEWER_GROUPS.keys() <= plain.keys():
        raise ConfigError(f"config={path}: expected the settings of a whole run, with {', '.join(GROUPS)}")
    return {**{str(key): value for key, value in plain.items()}, "output_dir": None, "resume": None}


def layers(overrides: Sequence[str]) -> list[tuple[str, DictConfig]]:
    """Return the YAML files that the overrides compose, as (name, values). A later file overrides an earlier one."""
    _compose(overrides)  # raises ConfigError for invalid overrides
    with initialize_config_module("detector.configs", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        found = loader.compute_defaults_list("config", [*map(hydra_word, overrides)], RunMode.RUN).defaults
    made = []
    for item in found:
        file = CONFIG_FOLDER / f"{item.config_path}.yaml"
        if item.package is not None and file.is_file():
            values = OmegaConf.load(file)
            placed = OmegaConf.create({item.package: values}) if item.package else values
            assert isinstance(placed, DictConfig)
            made.append((f"configs/{item.config_path}.yaml", placed))
    return made


def require_known(key: str, config: DictConfig) -> None:
    """Raise ConfigError if the config does not have this setting or group. The message names the nearest one."""
    if key not in _keys(config):
        raise ConfigError(f"{key}: no such setting{nearest(key, list(_keys(config)))}")


def changes(overrides: Sequence[str]) -> list[tuple[str, str, Any]]:
    """Return each override as written, its key or group, and its value."""
    return [(line, item.key_or_group, item.value()) for line, item in zip(overrides, _parse(overrides), strict=True)]


def sweep(overrides: Sequence[str]) -> list[list[str]]:
    """Return every combination of the comma-separated values in overrides: the jobs of --multirun."""
    values = [
        [f"{item.get_key_element()}={value}" for value in item.sweep_string_iterator()]
        if item.is_sweep_override()
        else [line]
        for line, item in zip(overrides, _parse(overrides, sweeping=True), strict=True)
    ]
    return [list(job) for job in product(*values)]


def hydra_words(overrides: Sequence[str], *, sweeping: bool = False) -> list[str]:
    """Return the overrides in the syntax of Hydra's command line: paths are quoted, and tables accept new keys."""
    words = [hydra_word(line, sweeping=sweeping) for line in overrides]
    return [f"++{word}" if word.partition("=")[2].startswith("{") else word for word in words]


def sweep_folder(words: Sequence[str]) -> Path:
    """Return the folder of a sweep. `words` are Hydra settings; raises ConfigError for an unknown one."""
    register_schemas()
    try:
        with initialize_config_module("detector.configs", version_base="1.3"):
            return Path(str(compose("config", list(words), return_hydra_config=True).hydra.sweep.dir))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain_error(error, " ".join(words), _defaults())) from error


def start_from_saved(plain: dict[str, Any]) -> str:
    """Store a saved config where Hydra can start from it. Return its name in Hydra's store.

    Each saved group becomes a choice of that group, so that `head=rfcn` replaces the whole saved head.
    """
    register_schemas()
    typed, store = structured(plain), ConfigStore.instance()
    for group in GROUPS:
        store.store(group=group, name=SAVED, node=typed[group])
    main = OmegaConf.to_container(OmegaConf.load(CONFIG_FOLDER / "config.yaml"))
    assert isinstance(main, dict)
    groups = [{group: SAVED} for group in GROUPS]
    rest = [item for item in main["defaults"] if isinstance(item, dict) and not item.keys() & {*GROUPS, "experiment"}]
    values = {key: value for key, value in plain.items() if key not in GROUPS}
    node = {"defaults": ["config_schema", *groups, "_self_", *rest], **values, "hydra": main["hydra"]}
    store.store(name=SAVED, node=node)
    return SAVED


def _compose(overrides: Sequence[str], search: Sequence[str] = ()) -> DictConfig:
    parsed = list(zip(overrides, _parse(overrides), strict=True))
    for line, item in parsed:
        group, choice = item.key_or_group, item.value()
        own = group in (*GROUPS, "experiment") and not search
        if own and isinstance(choice, str) and choice not in choices(group):
            raise ConfigError(f"{line}: no such {group}{nearest(choice, choices(group))}")
    register_schemas()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("detector.configs", version_base="1.3"):
            lines = [hydra_word(line) for line, item in parsed if not isinstance(item.value(), dict)]
            config = compose("config", [*lines, *search])
        for _, item in parsed:  # Hydra's overrides cannot add keys to a table, not even to one that accepts any key
            if isinstance(item.value(), dict):
                OmegaConf.update(config, item.key_or_group, item.value(), force_add=True)
        return config
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain_error(error, " ".join(overrides), _defaults())) from error


def _defaults() -> DictConfig:
    register_schemas()
    with initialize_config_module("detector.configs", version_base="1.3"):
        return compose("config")


def _parse(overrides: Sequence[str], *, sweeping: bool = False) -> list[Override]:
    parser = OverridesParser.create()
    return [_parse_one(parser, hydra_word(line, sweeping=sweeping)) for line in overrides]


def _parse_one(parser: OverridesParser, line: str) -> Override:
    try:
        return parser.parse_override(line)
    except HydraException as error:
        raise ConfigError(f"{line!r} is not of the form key=value; quote values with , = {{ or spaces") from error


def _head(item: Override) -> str:
    return str(item.key_or_group).split(".")[0]


def checked(config: DictConfig) -> Config:
    """Return the dataclasses of a composed config. Raises ConfigError that lists all missing values."""
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ConfigError(f"{', '.join(missing)}: no value given; set it with {missing[0]}=VALUE")
    try:
        return to_config(config)
    except ConfigError:
        raise
    except (OmegaConfBaseException, MissingMandatoryValue) as error:
        raise ConfigError(explain_error(error, "", config)) from error


def explain_error(error: Exception, line: str, config: DictConfig) -> str:
    """Return the message of a Hydra or OmegaConf error as one line."""
    cause: BaseException = error
    # OmegaConf chains the unfinished error below its own one if a debugger or coverage traces the program.
    while cause.__cause__ is not None and getattr(cause, "full_key", None) is None:
        cause = cause.__cause__
    if isinstance(cause, ConfigError):
        return str(cause)
    key = getattr(cause, "full_key", None) or ""
    lines = str(cause).splitlines() or [type(cause).__name__]
    missing = re.search(r"Could not find 'hydra/(\w+)/([^']+)'", str(cause))
    if missing:
        return (
            f"hydra/{missing[1]}={missing[2]}: Hydra has no such {missing[1]} here; for joblib, submitit and optuna, "
            "pip install 'fast-rfcn[sweep]'"
        )
    absent = re.search(r"Could not find '(\w+)/([^']+)'", str(cause))
    if absent:
        return f"{absent[1]}={absent[2]}: no such {absent[1]}{nearest(absent[2], choices(absent[1]))}"
    misfit = re.search(r"In '(experiment/[^']+)'.*\nKey '([^']+)' not in '(\w+)'\s+full_key: (\S+)", str(cause))
    if misfit:
        kinds = {node.__name__: f"{group}={kind}" for group, nodes in GROUPS.items() for kind, node in nodes.items()}
        part = kinds.get(misfit[3], misfit[3])
        return (
            f"{misfit[1]} sets {misfit[4]}, which {part} does not have; keep this part of the experiment, or choose "
            "another experiment, or none"
        )
    text = lines[0]
    unknown = re.search(r"[Kk]ey '([^']+)' (?:is )?not in", text) or re.search(r"Could not override '([^']+)'", text)
    if unknown:
        key = key or unknown[1]
        if key.startswith("hydra."):
            return f"{key}: Hydra has no such setting; `detector train --cfg hydra` lists its settings"
        if "." not in key:
            key = next((part.split("=")[0].lstrip("+~") for part in line.split() if key in part.split("=")[0]), key)
        return f"{key}: no such setting{nearest(key, list(_keys(config)))}"
    return f"{key}: {text}" if key and key not in text else text


def _keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for name in map(str, config):
        key = f"{prefix}{name}"
        yield key
        if OmegaConf.is_missing(config, name):
            continue
        value = config[name]
        if isinstance(value, DictConfig):
            yield from _keys(value, f"{key}.")
