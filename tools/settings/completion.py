"""`detector completion SHELL`: print the shell's completion script. `detector -sc` answers the script's queries.

This module completes the name of the command. Hydra completes settings, groups and their choices, on the line without
that name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from detector.configs.compose import register_schemas
from detector.tools.settings.application import hydra_main

SHELLS = ("bash", "zsh", "fish")
HELP = """\
usage: detector completion bash|zsh|fish

Prints the shell's script that completes commands, settings and their choices. Put this line in its start file:
  bash, ~/.bashrc                    eval "$(detector completion bash)"
  zsh, ~/.zshrc                      eval "$(detector completion zsh)"
  fish, ~/.config/fish/config.fish   detector completion fish | source
"""


def complete(words: Sequence[str], commands: Sequence[str]) -> None:
    """Answer `install=SHELL` or `uninstall=SHELL`, or complete the line in COMP_LINE for the shell's `query=SHELL`."""
    if any(word.startswith("query=") for word in words):
        program, *typed = os.environ.get("COMP_LINE", "").lstrip().split(" ")
        if len(typed) < 2:
            start = typed[0] if typed else ""
            print(*(name for name in commands if name.startswith(start)))
            return
        os.environ["COMP_LINE"] = " ".join([program, *typed[1:]])
    register_schemas()
    hydra_main(["--shell-completion", *words], lambda _: 0.0, "config")
