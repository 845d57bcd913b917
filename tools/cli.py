"""`detector <command> key=value ...`: read the words, run the command, print an error in one line, set the exit code.

Exit codes: 0 done, 1 failed while running, 2 wrong usage or settings, 3 stopped by a signal after saving,
4 the loss is not finite.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Callable

from detector.configs.errors import ConfigError
from detector.tools.entry_points import data, manual, models, scoring, training
from detector.tools.settings.exit_codes import DONE, EXPECTED_ERRORS, FAILED, USAGE, exit_code, print_error
from detector.tools.settings.help import asks_help, program_help

log = logging.getLogger("detector")

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": training.run_train,
    "plan": training.run_plan,
    "alternate": training.run_alternate,
    "eval": scoring.run_eval,
    "analyze": scoring.run_analyze,
    "compare": scoring.run_compare,
    "benchmark": models.run_benchmark,
    "predict": models.run_predict,
    "export": models.run_export,
    "convert": models.run_convert,
    "compress": models.run_compress,
    "inspect": data.run_inspect,
    "dataset": data.run_dataset,
    "proposals": data.run_proposals,
    "download": data.run_download,
    "explain": manual.run_explain,
    "config": manual.run_config,
    "info": manual.run_info,
    "docs": manual.run_docs,
    "completion": manual.run_completion,
}


def main() -> None:
    """Run the `detector` program."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may not have all letters of a class or a file name
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings.filterwarnings("ignore", "Image size .* could be decompression bomb")  # large photographs are welcome
    sys.exit(run(sys.argv[1:]))


def run(words: list[str]) -> int:
    """Run one command line and return its exit code. An expected error prints one line; a bug keeps its traceback."""
    try:
        return _dispatch(words)
    except EXPECTED_ERRORS as error:
        log.debug("failed", exc_info=True)
        print_error(error)
        return exit_code(error)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return FAILED


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(program_help())
        return DONE if words else USAGE
    name, rest = words[0], words[1:]
    if name in ("-sc", "--shell-completion"):
        from detector.tools.settings.completion import complete

        complete(rest, list(COMMANDS))
        return DONE
    if name not in COMMANDS:
        raise ConfigError(f"{name}: no such command; known: {', '.join(COMMANDS)}")
    unknown = [word for word in rest if word.startswith("-") and word not in ("-h", "--help")]
    if unknown and name not in ("train", "alternate"):
        raise ConfigError(f"{unknown[0]}: no such option; write settings as key=value; the only option is --help")
    _warn_of_unread(name, rest)
    return COMMANDS[name](rest)


def _warn_of_unread(command: str, words: list[str]) -> None:
    """Print one line for each setting that the command does not read. Of several processes, only the first prints."""
    if asks_help(words) or int(os.environ.get("RANK", 0)) != 0:
        return
    from detector.tools.settings.unread import unread

    for line in unread(command, words):
        print(f"warning: {line}", file=sys.stderr)
