"""`detector completion SHELL`: what a shell runs to complete words. Also the shell's own questions, by `-sc`.

Hydra completes settings, groups and their choices. It sees the line without the name of the command, which is completed
here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from detector.configs.compose import register_schemas
from detector.tools.settings.application import hydra_main

SHELLS = ("bash", "zsh", "fish")
HELP = """\
usage: detector completion bash|zsh|fish

Prints what the shell runs to complete commands, settings and their choices. In the shell's start file:
  bash, ~/.bashrc                    eval "$(detector completion bash)"
  zsh, ~/.zshrc                      eval "$(detector completion zsh)"
  fish, ~/.config/fish/config.fish   detector completion fish | source
"""


def complete(words: Sequence[str], commands: Sequence[str]) -> None:
    """Answers `install=SHELL`, `uninstall=SHELL`, or the shell's own `query=SHELL` about the line in COMP_LINE."""
    if any(word.startswith("query=") for word in words):
        program, *typed = os.environ.get("COMP_LINE", "").lstrip().split(" ")
        if len(typed) < 2:
            start = typed[0] if typed else ""
            print(*(name for name in commands if name.startswith(start)))
            return
        os.environ["COMP_LINE"] = " ".join([program, *typed[1:]])
    register_schemas()
    hydra_main(["--shell-completion", *words], lambda _: 0.0, "config")
