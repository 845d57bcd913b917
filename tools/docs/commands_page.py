"""The page of all commands: the program's help, and for each command its example, its own help and its settings."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from detector.tools.cli import HELP

COMMANDS = Path(__file__).resolve().parents[1] / "commands"
# Commands whose code is not a file of their own under commands/, and commands named otherwise than their file.
SOURCES = {
    "eval": COMMANDS / "evaluate.py",
    "proposals": COMMANDS.parents[1] / "detector" / "pipeline" / "proposal_recall.py",
    "explain": COMMANDS.parent / "explain" / "operators.py",
    "config": COMMANDS.parent / "settings" / "config_sources.py",
    "docs": COMMANDS.parent / "docs" / "topics.py",
    "completion": COMMANDS.parent / "settings" / "completion.py",
}
# The group whose keys stand alone on a command's line.
OWN_GROUPS = {"predict": "predict", "export": "export", "compress": "compress"}
READS = {
    "train": ("trainer", "optimizer", "dataset"),
    "eval": ("evaluation",),
    "analyze": ("evaluation",),
    "compare": ("evaluation",),
    "benchmark": ("benchmark",),
    "proposals": ("proposals",),
}

INTRODUCTION = """\
# Commands

`detector COMMAND key=value ...` runs a command. This page is generated from the program.
`detector COMMAND --help` prints the same for one command, with the value of every setting.

## Exit codes

| code | meaning |
|---|---|
| 0 | The command is done. |
| 1 | It failed while running. One line says why. A second Ctrl-C gives 1 too. |
| 2 | The usage or a setting is wrong. Nothing was run. |
| 3 | A signal stopped it, after it saved. `resume=` goes on. |
| 4 | The loss is not finite. |
"""


def commands_page() -> str:
    """The page in Markdown."""
    parts = [INTRODUCTION]
    for name, purpose, example in listed_commands():
        parts += [f"## {name}", "", f"{purpose[0].upper()}{purpose[1:]}.", "", "```bash", example, "```", ""]
        path = SOURCES.get(name, COMMANDS / f"{name}.py")
        tree = ast.parse(path.read_text())
        parts += [*_description(ast.get_docstring(tree) or ""), ""]
        own = _help_text(tree)
        if own:
            parts += ["```text", own.rstrip(), "```", ""]
        if name in OWN_GROUPS:
            group = OWN_GROUPS[name]
            parts += [
                f"Its own settings are those of [`{group}`](settings.md#{group}), written without `{group}.`.",
                "",
            ]
        if name in READS:
            links = ", ".join(f"[`{group}`](settings.md#{group})" for group in READS[name])
            parts += [f"Settings: {links}.", ""]
    return "\n".join(parts) + "\n"


def listed_commands() -> list[tuple[str, str, str]]:
    """Name, purpose and example of each command, from the program's help."""
    block = HELP.partition("commands\n")[2].partition("\n\n")[0]
    found = [re.match(r"  (\S+)\s+(.+?)\s{2,}(detector .+)$", line) for line in block.splitlines()]
    return [(row[1], row[2], row[3]) for row in found if row]


def _description(docstring: str) -> list[str]:
    """The docstring without the command's name before its first colon, as Markdown lines."""
    text = re.sub(r"^`detector [^`]+`: ", "", docstring)
    text = text[:1].upper() + text[1:]
    paragraphs = text.split("\n\n")
    # A table of names is shown as it is written.
    return [
        "\n\n".join(f"```text\n{part}\n```" if re.search(r"^\S+ {2,}", part, re.M) else part for part in paragraphs)
    ]


def _help_text(tree: ast.Module) -> str:
    """The text of the module's HELP; parts that are computed are left out."""
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "HELP":
            if isinstance(statement.value, ast.Constant):
                return str(statement.value.value)
            return ""
    return ""
