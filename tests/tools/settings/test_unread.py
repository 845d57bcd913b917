"""A setting that a command does not read gives one warning line."""

import re
from pathlib import Path

import pytest

from detector.configs.groups import GROUPS
from detector.configs.keys import known_keys
from detector.tools import cli
from detector.tools.settings.unread import MODEL, READ, READ_WITHOUT_MODEL, unread

COMMANDS = Path(cli.__file__).parent / "commands"
FILES = {
    "evaluate.py": "eval",
    "analyze.py": "analyze",
    "compare.py": "compare",
    "benchmark.py": "benchmark",
    "predict.py": "predict",
    "export.py": "export",
    "compress.py": "compress",
    "inspect.py": "inspect",
    "dataset.py": "dataset",
}


@pytest.mark.parametrize(
    ("command", "word", "parts"),
    [
        ("eval", "optimizer.lr=1", ["eval does not read optimizer.lr, so optimizer.lr=1 has no effect"]),
        ("eval", "optimizer=adamw", ["optimizer=adamw"]),
        ("eval", "input.short_sides=[800]", ["of input it reads input.test_short_side"]),
        ("eval", "trainer.max_steps=5", ["of trainer it reads trainer.device, trainer.precision"]),
        ("predict", "dataset.root=x", ["predict does not read dataset.root"]),
        ("benchmark", "dataset=voc", ["dataset=voc"]),
        ("analyze", "postprocess.nms_iou=0.1", ["postprocess.nms_iou"]),
        ("compare", "trainer.workers=3", ["of trainer it reads trainer.seed"]),
        ("proposals", "head.k=3", ["head.k"]),
        ("inspect", "input.bgr_255=true", ["of input it reads input.test_short_side, input.max_side"]),
        ("export", "images=photos", ["images=photos"]),
        ("train", "images=photos", ["images=photos"]),
    ],
)
def test_a_setting_that_is_not_read_is_named(command: str, word: str, parts: list[str]) -> None:
    (line,) = unread(command, [word])
    assert all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train", ["optimizer.lr=1", "predict.draw=false", "experiment=demo", "hydra.run.dir=x"]),
        ("eval", ["weights=x", "trainer.device=cpu", "trainer={device: cpu}", "postprocess.nms_iou=0.1"]),
        ("benchmark", ["experiment=demo", "trainer.threads=1", "head=rfcn", "input.max_side=500"]),
        ("compare", ["a=x", "b=y", "trainer.seed=1"]),
        ("predict", ["predict.draw=false", "no.such.key=1", "draw", "--help"]),
        ("explain", ["optimizer.lr=1"]),
    ],
)
def test_other_words_give_no_warning(command: str, words: list[str]) -> None:
    assert unread(command, words) == []


def test_a_pyramid_does_not_read_the_width_of_a_joined_map() -> None:
    word = "backbone.joined_channels=64"
    assert unread("train", [word]) == []
    expected = f"neck=fpn does not read backbone.joined_channels, so {word} has no effect; set neck.channels"
    assert unread("train", [word, "neck=fpn"]) == [expected]


def test_scoring_given_detections_does_not_read_the_model() -> None:
    assert unread("eval", ["postprocess.nms_iou=0.1"]) == []
    (line,) = unread("eval", ["detections=x", "postprocess.nms_iou=0.1"])
    assert line.startswith("eval detections=... does not read postprocess.nms_iou")


@pytest.mark.parametrize("command", READ)
def test_listed_settings_exist(command: str) -> None:
    assert {*READ[command], *READ_WITHOUT_MODEL} <= set(known_keys())


def test_every_group_is_listed_as_part_of_the_model_or_not() -> None:
    assert GROUPS.keys() - set(MODEL) == {"dataset", "sampling", "optimizer"}, (
        "list the group in MODEL if a model reads it"
    )


@pytest.mark.parametrize("file", FILES)
def test_settings_read_by_the_file_of_a_command_are_listed(file: str) -> None:
    used = re.findall(r"\bconfig\.((?:trainer\.|input\.|loss\.)?\w+)", (COMMANDS / file).read_text())
    keys = [key for key in used if key in known_keys()]
    assert keys or file == "dataset.py"
    assert [key for key in keys if unread(FILES[file], [f"{key}=x"])] == []


def test_the_program_warns_and_continues(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["eval", "optimizer.lr=1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "warning: eval does not read optimizer.lr, so optimizer.lr=1 has no effect"
    assert lines[-1].startswith("error: eval needs weights=CHECKPOINT")
