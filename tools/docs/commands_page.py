"""The page of all commands: for each command its purpose, example, help text and settings."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from detector.tools.settings.help import HELP

COMMANDS = Path(__file__).resolve().parents[1] / "commands"
# Commands whose code is not in commands/NAME.py.
SOURCES = {
    "eval": COMMANDS / "evaluate.py",
    "proposals": COMMANDS.parents[1] / "detector" / "pipeline" / "proposal_recall.py",
    "explain": COMMANDS.parent / "explain" / "operators.py",
    "config": COMMANDS.parent / "settings" / "config_sources.py",
    "docs": COMMANDS.parent / "docs" / "topics.py",
    "completion": COMMANDS.parent / "settings" / "completion.py",
}
# For some commands: the group whose keys are written without the group's name.
OWN_GROUPS = {"predict": "predict", "export": "export", "compress": "compress"}
READS = {
    "train": ("trainer", "optimizer", "dataset"),
    "eval": ("evaluation",),
    "analyze": ("evaluation",),
    "compare": ("evaluation",),
    "benchmark": ("benchmark",),
    "proposals": ("proposals",),
}
# The pages that show the command at work, as links from docs/reference.
GUIDES = {
    "train": "[your own photographs](../photographs.md), [Pascal VOC](../voc-coco.md), [runs](../runs.md)",
    "plan": "[how the plan decides](../plan.md)",
    "alternate": "[training in four steps](../methods/rpn.md#training-both-together-or-in-four-steps)",
    "eval": "[evaluation protocols](../evaluation.md#on-the-command-line)",
    "analyze": "[reading the result](../photographs.md#reading-the-result)",
    "compare": "[compare two detectors](../evaluation.md#compare-two-detectors-honestly)",
    "benchmark": "[performance](../performance.md)",
    "predict": "[models and predictions](../models.md#from-the-command-line)",
    "export": "[export and deployment](../export.md)",
    "convert": "[released weights of others](../models.md#released-weights-of-others)",
    "compress": "[compressed models](../export.md#compressed-models)",
    "inspect": "[look before you train](../photographs.md#before-you-train-look)",
    "dataset": "[another format](../voc-coco.md#another-format)",
    "proposals": "[Pascal VOC in three commands](../voc-coco.md#pascal-voc-in-three-commands)",
    "download": "[Pascal VOC in three commands](../voc-coco.md#pascal-voc-in-three-commands)",
    "explain": "[the operators in pictures](operators.md#in-pictures)",
    "config": "[repeating a run](../runs.md#repeating)",
    "info": "[install](../install.md)",
    "completion": "[shell completion](../install.md#shell-completion)",
}

USAGE = "```{.text .usage}"  # a block of text whose lines are broken on narrow screens

INTRODUCTION = """\
# Commands

`detector COMMAND key=value ...` runs a command. This page is generated from the program.
`detector COMMAND --help` prints the help of one command, with the value of every setting.

## Exit codes

| code | meaning |
|---|---|
| 0 | The command is done. |
| 1 | The command failed while it ran. One line gives the reason. A second Ctrl-C also gives 1. |
| 2 | The usage or a setting is wrong. Nothing was run. |
| 3 | A signal stopped the command after it saved. `resume=` continues the run. |
| 4 | The loss is not finite. |
"""


def commands_page() -> str:
    """Return the page in Markdown."""
    parts = [INTRODUCTION]
    for name, purpose, example in listed_commands():
        parts += [f"## {name}", "", f"{purpose[0].upper()}{purpose[1:]}.", "", "```bash", example, "```", ""]
        path = SOURCES.get(name, COMMANDS / f"{name}.py")
        tree = ast.parse(path.read_text())
        parts += [*_description(ast.get_docstring(tree) or ""), ""]
        help_text = _help_text(tree)
        if help_text:
            parts += [USAGE, help_text.rstrip(), "```", ""]
        if name in OWN_GROUPS:
            group = OWN_GROUPS[name]
            parts += [
                f"Its own settings are those of [`{group}`](settings.md#{group}), written without `{group}`.",
                "",
            ]
        if name in READS:
            links = ", ".join(f"[`{group}`](settings.md#{group})" for group in READS[name])
            parts += [f"Settings: {links}.", ""]
        if name in GUIDES:
            parts += [f"Read: {GUIDES[name]}.", ""]
    return "\n".join(parts) + "\n"


def listed_commands() -> list[tuple[str, str, str]]:
    """Return the name, purpose and example of each command, from the program's help."""
    block = HELP.partition("commands\n")[2].partition("\n\n")[0]
    found = [re.match(r"  (\S+)\s+(.+?)\s{2,}(detector .+)$", line) for line in block.splitlines()]
    return [(row[1], row[2], row[3]) for row in found if row]


def _description(docstring: str) -> list[str]:
    """Return the docstring as Markdown lines, without the command's name and the first colon."""
    text = re.sub(r"^`detector [^`]+`: ", "", docstring)
    text = text[:1].upper() + text[1:]
    paragraphs = text.split("\n\n")
    # A paragraph with aligned columns keeps its layout.
    return [
        "\n\n".join(f"{USAGE}\n{part}\n```" if re.search(r"^\S+ {2,}", part, re.M) else part for part in paragraphs)
    ]


def _help_text(tree: ast.Module) -> str:
    """Return the text of the module's HELP; empty if HELP is missing or computed."""
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "HELP":
            if isinstance(statement.value, ast.Constant):
                return str(statement.value.value)
            return ""
    return ""
