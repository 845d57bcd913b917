"""What the README and the documentation show: their code blocks and command lines.

A block of ```bash is a list of command lines. A block of ```text right after it is the output of its last command, or
of its Python program. A line "..." in it stands for any lines.
"""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from detector.tools.docs.commands_page import listed_commands
from detector.tools.docs.tutorial_pages import as_page

ROOT = Path(__file__).parents[2]
SOURCES = [
    ROOT / "README.md",
    ROOT / "ops" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "docs" / "tutorials").glob("*.py")),
]
FENCE = re.compile(r"^( *)```(\w*)(?: title=\"([^\"]*)\")?\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(detector \w+ [^`]*=[^`]*)`")


class Block(NamedTuple):
    """A fenced block of a page, with the output that the page states."""

    name: str  # file and line
    language: str
    title: str
    text: str
    output: str | None


class Command(NamedTuple):
    """A command line of a page. Only the last one of a block can have an output."""

    name: str
    words: tuple[str, ...]
    block: Block | None

    @property
    def line(self) -> str:
        return " ".join(self.words)

    @property
    def output(self) -> str | None:
        return None if self.block is None else self.block.output


def text_of(path: Path) -> str:
    """Return the text of a page or of a tutorial's script. test_tutorials.py tests pages that change the source."""
    text = path.read_text()
    if path.suffix == ".py":
        return as_page(text)
    return "" if "```diff title=" in text else text


def blocks_of(path: Path) -> list[Block]:
    """Return the fenced blocks of a page, each with its stated output."""
    text = text_of(path)
    found = list(FENCE.finditer(text))
    blocks = []
    for number, match in enumerate(found):
        after = found[number + 1] if number + 1 < len(found) else None
        follows = after is not None and after[2] == "text" and not text[match.end() : after.start()].strip()
        line = text.count("\n", 0, match.start()) + 1
        body = "\n".join(row.removeprefix(match[1]) for row in match[4].splitlines())
        output = after[4] if after is not None and follows and match[2] != "text" else None
        blocks.append(Block(f"{path.relative_to(ROOT).as_posix()}:{line}", match[2], match[3] or "", body, output))
    return blocks


def words_of(line: str) -> tuple[str, ...]:
    """Split a command line into words. Text after a pipe is another program. A path of the program is removed."""
    words = shlex.split(line.partition(" | ")[0], comments=True)
    return ("detector", *words[1:]) if words and words[0].endswith("/detector") else tuple(words)


def commands_of(block: Block) -> list[Command]:
    """Return the command lines of a block. A backslash joins lines."""
    lines = [words for line in block.text.replace("\\\n", " ").splitlines() if (words := words_of(line))]
    last = len(lines) - 1
    return [Command(block.name, words, block if number == last else None) for number, words in enumerate(lines)]


def inline_commands(path: Path) -> list[Command]:
    """Return the command lines with settings that stand inside sentences."""
    text = FENCE.sub(lambda found: "\n" * found[0].count("\n"), text_of(path))
    name = path.relative_to(ROOT).as_posix()
    return [
        Command(f"{name}:{text.count(chr(10), 0, found.start()) + 1}", words_of(found[1].replace("\n", " ")), None)
        for found in INLINE.finditer(text)
    ]


BLOCKS = [block for path in SOURCES for block in blocks_of(path)]
COMMANDS = [
    *(command for block in BLOCKS if block.language == "bash" for command in commands_of(block)),
    *(command for path in SOURCES for command in inline_commands(path)),
    # The page of all commands is generated from the program's help.
    *(Command(f"detector --help: {name}", words_of(example), None) for name, _, example in listed_commands()),
]


def assert_output(name: str, stated: str, shown: str) -> None:
    """Require that the stated output equals the shown one. A line "..." stands for any lines."""
    parts = [re.escape(part.strip("\n")) for part in re.split(r"^\.\.\.$", stated, flags=re.MULTILINE)]
    pattern = r"(?:.*\n)*?".join(part + r"\n" if part else "" for part in parts)
    trimmed = "\n".join(line.rstrip() for line in shown.splitlines()) + "\n"
    assert re.fullmatch(pattern, trimmed), f"{name} states\n{stated}\nbut it is\n{trimmed}"
