"""The examples in the README and the documentation run: commands, with the stated output, and Python.

A block of ```bash is a list of command lines. A block of ```text right after it is the output of its last command.
A line "..." in it stands for any lines. Each Python block runs in a new namespace; its output is compared in the same
way.
Commands that train, read a data set or load a model are only parsed here: their words must be known settings that fit
together. tests/integration runs some of them on a small data set. test_tutorials.py runs the changes of tutorials.
"""

import contextlib
import io
import os
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

from detector.tools import cli
from detector.tools.docs.tutorial_pages import as_page

ROOT = Path(__file__).parents[2]
SOURCES = [
    ROOT / "README.md",
    ROOT / "ops" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "docs" / "tutorials").glob("*.py")),
]
FENCE = re.compile(r"^( *)```(\w*)(?: title=\"[^\"]*\")?\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
RUN_HERE = {"explain", "config", "docs", "completion"}  # fast, without data
OTHER_PROGRAMS = {"make", "pip", "source", "eval", "tensorboard", "torchrun", "python", "docker", "tail", "export"}
# Python that needs a trained model or a folder of photographs is only compiled.
NEEDS_A_MODEL = re.compile(r"load_detector|import train|quantize_layers|run\.|detect\(|train\(|sys\.argv")


class Block(NamedTuple):
    name: str  # file and line
    language: str
    text: str
    output: str | None  # the ```text block directly after it, or None


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
        body = "\n".join(row.removeprefix(match[1]) for row in match[3].splitlines())
        output = after[3] if after is not None and follows and match[2] != "text" else None
        blocks.append(Block(f"{path.relative_to(ROOT).as_posix()}:{line}", match[2], body, output))
    return blocks


BLOCKS = [block for path in SOURCES for block in blocks_of(path)]


def commands_of(text: str) -> list[list[str]]:
    """Return the command lines of a block, split into words. A backslash joins lines."""
    lines = text.replace("\\\n", " ").splitlines()
    # Text after a pipe is another program.
    return [words for words in (shlex.split(line.partition(" | ")[0], comments=True) for line in lines) if words]


def indented_commands() -> list[tuple[str, list[str]]]:
    """Return the `detector ...` lines of blocks that are indented by four spaces and not fenced."""
    found = []
    for path in SOURCES:
        text = FENCE.sub("", text_of(path)).replace("\\\n", " ")
        lines = re.findall(r"^    (?:torchrun .* -m detector\.tools |detector )(.+)$", text, re.MULTILINE)
        # Skip lines with omitted words, and tables of commands with their meaning.
        whole = [line for line in lines if not re.search(r"\.\.\.|\[key=value|=NAME\b| {3,}[A-Za-z]", line)]
        found += [(f"{path.relative_to(ROOT).as_posix()}: {line[:60]}", shlex.split(line)) for line in whole]
    return found


SHELL = [(block, words) for block in BLOCKS if block.language == "bash" for words in commands_of(block.text)]
DETECTOR = [(block, words[1:]) for block, words in SHELL if words[0].rpartition("/")[2] == "detector"]
LAST = {id(block): commands_of(block.text)[-1] for block, _ in SHELL}
RUNNABLE = [(block, words) for block, words in DETECTOR if words[0] in RUN_HERE]
READ = [(block.name, words) for block, words in DETECTOR if words[0] not in RUN_HERE] + [
    (name, words) for name, words in indented_commands() if words[0] not in RUN_HERE
]
PYTHON = [block for block in BLOCKS if block.language == "python"]


def assert_output(block: Block, shown: str) -> None:
    """Require that the stated output equals the shown one. A line "..." stands for any lines."""
    assert block.output is not None
    parts = [re.escape(part.strip("\n")) for part in re.split(r"^\.\.\.$", block.output, flags=re.MULTILINE)]
    pattern = r"(?:.*\n)*?".join(part + r"\n" if part else "" for part in parts)
    trimmed = "\n".join(line.rstrip() for line in shown.splitlines()) + "\n"
    assert re.fullmatch(pattern, trimmed), f"{block.name} states\n{block.output}\nbut it is\n{trimmed}"


def test_blocks_are_found() -> None:
    assert len(RUNNABLE) > 15
    assert len(READ) > 30
    assert len(PYTHON) > 8
    assert sum(block.output is not None for block in BLOCKS) > 12


def test_programs_are_known() -> None:
    unknown = {words[0] for _, words in SHELL if words[0].rpartition("/")[2] not in {"detector", *OTHER_PROGRAMS}}
    assert not unknown
    makefile = (ROOT / "Makefile").read_text()
    for block, words in SHELL:
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), f"{block.name}: make {words[1]}"


@pytest.mark.parametrize(("block", "words"), RUNNABLE, ids=[f"{b.name} {' '.join(w)[:40]}" for b, w in RUNNABLE])
def test_commands_run(
    block: Block, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if any(word.startswith(("weights=", "config=")) for word in words):
        pytest.skip("needs a trained model")
    monkeypatch.chdir(tmp_path)
    assert cli.run(words) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    if block.output is not None and LAST[id(block)][1:] == words:
        assert_output(block, shown)


@pytest.mark.parametrize(("name", "words"), READ, ids=[f"{name} {' '.join(words)[:40]}" for name, words in READ])
def test_words_of_commands_are_known(name: str, words: list[str]) -> None:
    from detector.configs.compose import load_config
    from detector.configs.keys import check_words

    own = ("data", "source", "output", "format", "classes", "fix", "augment", "stride", "a", "b", "protocols")
    own = (*own, "root", "years")
    groups = ("predict", "export", "compress")
    assert words[0] in {row[0] for row in listed()}, f"{name}: no such command"
    if words[0] in ("train", "alternate", "proposals") and not any(
        word.startswith(("-", "data=", "resume=", "hydra", "config=")) for word in words[1:]
    ):
        load_config([word for word in words[1:] if not word.startswith(("mirror=",))])
        return
    if words[0] in groups:
        from dataclasses import fields

        from detector.configs import schema

        kind = {"predict": schema.PredictConfig, "export": schema.ExportConfig, "compress": schema.CompressConfig}
        alone = {field.name for field in fields(kind[words[0]])}
        words = [f"{words[0]}.{word}" if word.partition("=")[0] in alone else word for word in words]
    if words[0] == "download":
        return
    own = () if words[0] in groups else own
    rest = [word for word in words[1:] if not word.startswith(("-", "hydra", *(f"{key}=" for key in own)))]
    check_words([word for word in rest if word not in ("show", "explain")])


def listed() -> list[tuple[str, str, str]]:
    from detector.tools.docs.commands_page import listed_commands

    return listed_commands()


@pytest.mark.parametrize("block", PYTHON, ids=[block.name for block in PYTHON])
def test_python_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = compile(block.text, block.name, "exec")
    if NEEDS_A_MODEL.search(block.text):
        return
    monkeypatch.chdir(tmp_path)
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(code, {"__name__": "snippet", "os": os})
    if block.output is not None:
        assert_output(block, shown.getvalue())
