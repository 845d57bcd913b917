"""The entry points of the commands that explain: operators, settings, versions, pages, completion."""

from __future__ import annotations

from pathlib import Path

from detector.configs.errors import ConfigError
from detector.tools.settings.exit_codes import DONE, USAGE
from detector.tools.settings.help import asks_help
from detector.tools.settings.own_words import split_words

CONFIG_HELP = """\
usage: detector config show [key=value ...] [config=FILE]
       detector config explain KEY [key=value ...] [config=FILE]

show prints all settings. explain prints the meaning of one setting, its value, and the file or word that set it.
config=FILE is the config.yaml of a run; without it, the settings are the shipped ones.
  detector config show experiment=demo
  detector config explain trainer.max_steps config=runs/mine/config.yaml
"""


def run_explain(words: list[str]) -> int:
    """Run `explain`. Its words are not settings."""
    from detector.tools.explain import operators as explain

    if not words or asks_help(words):
        print(explain.HELP)
    elif words[0] == "ps_roi_pool" and any(word.startswith("weights=") for word in words):
        from detector.tools.explain.model import run_explain_model

        run_explain_model(words[1:])
    elif words[0] == "nms":
        from detector.tools.explain.nms import run_explain_nms

        run_explain_nms(words[1:])
    else:
        explain.run_explain(words)
    return DONE if words else USAGE


def run_config(words: list[str]) -> int:
    """Run `config show` (prints settings, for config=FILE) or `config explain KEY` (prints the source of a value)."""
    if asks_help(words):
        print(CONFIG_HELP)
        return DONE
    from detector.configs.keys import check_words

    rest, own = split_words(words, ("config",))
    check_words(rest[1:] if words[:1] == ["show"] else rest[2:])
    from omegaconf import OmegaConf

    from detector.configs.compose import load_config, override_config, read_config
    from detector.configs.groups import to_plain
    from detector.tools.settings.config_sources import explain

    saved = Path(own["config"]) if own["config"] else None
    if words[:1] == ["show"]:
        config = override_config(read_config(saved), rest[1:]) if saved else load_config(rest[1:])
        print(OmegaConf.to_yaml(OmegaConf.create(to_plain(config))), end="")
        return DONE
    if len(rest) < 2 or rest[0] != "explain" or "=" in rest[1]:
        raise ConfigError(
            "config takes show [key=value ...] or explain KEY [key=value ...]; add config=FILE for a run's settings"
        )
    print(explain(rest[1], rest[2:], saved))
    return DONE


def run_info(words: list[str]) -> int:
    """Run `info`."""
    from detector.tools.commands.info import print_info

    print_info()
    return DONE


def run_docs(words: list[str]) -> int:
    """Run `docs`. The words name a page."""
    from detector.tools.docs import topics

    if asks_help(words):
        print(topics.HELP)
        return DONE
    topics.print_page(" ".join(words) or None)
    return DONE


def run_completion(words: list[str]) -> int:
    """Run `completion`: print the script with which a shell completes words."""
    from detector.tools.settings import completion

    if asks_help(words):
        print(completion.HELP)
        return DONE
    if len(words) != 1 or words[0] not in completion.SHELLS:
        raise ConfigError(f"completion: expected one of {', '.join(completion.SHELLS)}, got {' '.join(words)!r}")
    if words[0] == "zsh":
        print("autoload -Uz bashcompinit && bashcompinit")  # zsh runs the script of bash
    completion.complete([f"install={words[0]}"], [])
    return DONE
