"""The README's commands run, on a small folder, with a narrow network and two steps."""

import re
import shlex
from pathlib import Path

import pytest

from detector.tools import cli

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [shlex.split(line, comments=True) for block in BLOCKS for line in block.splitlines()]
DETECTOR = [words[1:] for words in COMMANDS if words and words[0].endswith("/detector")]
SMALL = [
    "backbone.weights=null", "trainer.max_steps=2", "trainer.device=cpu", "input.short_sides=[64]",
    "input.test_short_side=64", "backbone.tail_channels=16", "proposals.channels=16",
]  # fmt: skip


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = [words[1] for words in COMMANDS if words[0] == "make"]
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_commands_for_own_photographs_run(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "mine"
    photos = str(pictures / "JPEGImages")
    named = {"MORE_PHOTOS": photos, "data=PHOTOS": f"data={pictures}", "runs/mine": str(run)}
    commands = [words for words in DETECTOR if any("runs/mine" in word for word in words)]
    assert [words[0] for words in commands] == ["train", "eval", "predict"]
    for words in commands:
        for written, meant in named.items():
            words = [word.replace(written, meant) for word in words]
        if words[0] == "train":
            words += SMALL
        else:
            words += [f"output_dir={tmp_path / words[0]}", "trainer.workers=0"]
        assert cli.run(words) == 0, capsys.readouterr().err
    assert (run / "metrics.json").is_file()
    assert (run / "analysis.html").is_file()
    assert (run / "model.safetensors").is_file()
    assert (tmp_path / "predict" / "detections.json").is_file()
