"""The examples in the README and the documentation run: commands, with the stated output, and Python.

They run word for word in a folder that has what they name (conftest.py), on 8 pictures, with two steps of training.
NOT_RUN lists what does not run here, with the reason. test_tutorials.py follows the tutorials.
"""

import contextlib
import importlib.util
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from detector.tools import cli
from tests.docs.conftest import ANY, DEMO, FAST_RCNN, PLANNED
from tests.docs.shown import BLOCKS, COMMANDS, ROOT, Block, Command, assert_output
from tests.joblib_workers import end_joblib_workers

# A pattern of command lines, and why they do not run.
NOT_RUN = {
    r".*(=NAME|=FORMAT|=ADDRESS| KEY )": "a pattern, with a word to replace",
    r"make ": "installs into .venv; the targets are looked up",
    r"pip ": "installs packages",
    r"(source|eval|export) ": "changes the reader's shell; test_pages.py tests completion",
    r"tensorboard ": "serves until it is stopped",
    r"detector download ": "needs the network",
    r".*(VOCdevkit|_voc07|_voc0712|mobilenet_v2 head=rfcn)": "needs Pascal VOC or COCO",
    r"detector convert ": "needs released weights; tests/tools/commands/test_convert.py writes such files",
    r".*backbone=timm": "needs timm and its weights, from the network",
    r"(srun |head=)": "needs SLURM",
    r"torchrun --nnodes": "needs two machines",
    r"detector benchmark experiment=rfcn_resnet50": "takes minutes; the command runs with weights= too",
    r"python (detect|compare|best).py": "test_tutorials.py follows this page",
    r"detector train -m hydra/sweeper=optuna": "test_tutorials.py searches, in a process of its own",
}
# A pattern of command lines that take long.
SLOW = r"detector (train|alternate|benchmark|compress)|torchrun|.*format=onnx"
NEEDS = {"format=onnx": "onnxscript", "launcher=joblib": "joblib"}
# Words that a command gets here, by the beginning of its line.
SMALLER = {
    "detector eval weights=": ("trainer.workers=0",),
    "detector predict": ("trainer.workers=0",),
    "detector compare": ("evaluation.resamples=200",),
    "detector benchmark": ("benchmark.repeats=1", "benchmark.height=64", "benchmark.width=64", "trainer.workers=0"),
    "detector train data=PHOTOS trainer.max_minutes=20 head=rfcn": ("backbone.frozen_stages=0", "backbone.norm=gn"),
}
# Values that would take long, or are for a larger model.
REPLACED = {"trainer.max_steps": "2", "ranks": "[8,8]", "max_drop": "1"} | {
    word.partition("=")[0]: word.partition("=")[2] for word in SMALLER["detector benchmark"]
}
# What a command line needs from the one before it.
BEFORE = {"detector train data=PHOTOS_TAR": "detector dataset source=PHOTOS output=PHOTOS_TAR format=shards"}
TUTORIALS = ("docs/tutorials/deploy_onnx.md", "docs/tutorials/sweep_optuna.md", "docs/tutorials/own_photographs.py")


def reason_of(command: Command) -> str | None:
    """Why the command does not run here, or None."""
    return next((reason for pattern, reason in NOT_RUN.items() if re.match(pattern, command.line)), None)


def once(commands: list[Command]) -> list[Command]:
    """Each command line once, with its output if a page states one."""
    found: dict[str, Command] = {}
    for command in commands:
        if command.line not in found or command.output is not None:
            found[command.line] = command
    return list(found.values())


RUN = once([command for command in COMMANDS if reason_of(command) is None])
CHECKED = once([command for command in COMMANDS if reason_of(command) is not None and command.words[0] == "detector"])
PYTHON = {
    block.text: block for block in BLOCKS if block.language == "python" and not block.name.startswith(TUTORIALS)
}.values()


def marked(command: Command) -> object:
    slow = [pytest.mark.slow] if re.match(SLOW, command.line) else []
    return pytest.param(command, marks=slow, id=f"{command.name} {command.line[:60]}")


def smaller(command: Command) -> list[str]:
    """Return the words after the program, with words that make the command small."""
    given = {word.partition("=")[0] for word in command.words}
    words = [
        f"{key}={REPLACED[key]}" if "=" in word and (key := word.partition("=")[0]) in REPLACED else word
        for word in command.words[1:]
    ]
    extra: tuple[str, ...] = ()
    if words[0] in ("train", "plan"):
        if any(word.startswith("data=") for word in words):
            extra = (*PLANNED, "proposals.channels=16", *(() if "head=rfcn" in words else FAST_RCNN[:1]))
        elif any(word.startswith(("resume=", "config=", "weights=")) for word in words):
            extra = ANY
        else:
            extra = DEMO
    for beginning, more in SMALLER.items():
        if command.line.startswith(beginning):
            extra = (*extra, *more)
    return [*words, *(word for word in extra if word.partition("=")[0] not in given)]


def test_examples_are_found() -> None:
    assert len(RUN) > 60
    assert len(PYTHON) > 8
    assert sum(block.output is not None for block in BLOCKS) > 12


def test_every_exception_is_needed() -> None:
    for pattern in NOT_RUN:
        assert any(re.match(pattern, command.line) for command in COMMANDS), f"no command {pattern}"
    for page in TUTORIALS:
        assert any(block.name.startswith(page) for block in BLOCKS), page


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = {command.words[1] for command in COMMANDS if command.words[0] == "make"}
    assert {"demo", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("command", [marked(command) for command in RUN])
def test_a_command_runs(command: Command, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for word, module in NEEDS.items():
        if word in command.line and importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    if "output=docs/figures/" in command.line:
        (place / "docs" / "figures").mkdir(parents=True)
    if command.line in BEFORE:
        assert cli.run(BEFORE[command.line].split()[1:]) == 0
    words = smaller(command)
    if command.words[0] == "torchrun":
        run_processes(words)
        return
    assert command.words[0] == "detector", f"{command.name}: list {command.words[0]} in NOT_RUN"
    try:
        assert cli.run(words) == 0, capsys.readouterr().err
    finally:
        if "launcher=joblib" in command.line:
            end_joblib_workers()
    shown = capsys.readouterr().out
    if command.output is not None:
        assert_output(command.name, command.output, shown)


def run_processes(words: list[str]) -> None:
    """Run torchrun's words on this machine."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words, *DEMO],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]


def test_the_first_training_writes_what_the_pages_name(furnished: Path) -> None:
    for name in ("mine", "demo"):
        run = furnished / "runs" / name
        for written in (
            "config.yaml",
            "metrics.json",
            "history.json",
            "log.txt",
            "pictures",
            "detections",
            "tensorboard",
        ):
            assert (run / written).exists(), f"{name}/{written}"
        assert (run / "checkpoints" / "last.pt").is_file()
    for written in ("analysis.html", "model.safetensors", "plan.json", "split.json"):
        assert (furnished / "runs" / "mine" / written).is_file(), written


@pytest.mark.parametrize("command", CHECKED, ids=[f"{each.name} {each.line[:60]}" for each in CHECKED])
def test_the_words_of_other_commands_are_known(command: Command) -> None:
    from detector.configs.compose import load_config
    from detector.configs.keys import check_words

    name, *words = command.words[1:]
    if "pattern" in str(reason_of(command)) or name in ("download", "convert"):
        return
    if name in ("train", "alternate", "proposals") and words[0] != "-m":
        load_config([word for word in words if not word.startswith("data=")])
    else:
        check_words([word for word in words if not word.startswith(("-", "hydra"))])


@pytest.mark.parametrize("block", PYTHON, ids=[block.name for block in PYTHON])
def test_python_runs(block: Block, place: Path) -> None:
    settings = {word.partition("=")[0]: word.partition("=")[2] for word in (*PLANNED, *FAST_RCNN)}
    text = block.text.replace("minutes=20)", f"minutes=20, settings={settings!r})")
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(compile(text, block.name, "exec"), {"__name__": "snippet"})
    if block.output is not None:
        assert_output(block.name, block.output, shown.getvalue())
