"""The tutorials work: their changes of the source fit, and their programs and commands run.

The fenced blocks of a page are followed in order. A block with a title is a new file, or, as a diff, a change of a
file. Blocks of bash are command lines.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from detector.datasets.synthetic import SyntheticDataset
from tests.integration.conftest import write_voc

ROOT = Path(__file__).parents[2]
TUTORIALS = ROOT / "docs" / "tutorials"
FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]*)\")?\n(.*?)^```", re.MULTILINE | re.DOTALL)
COPIED = ("configs", "datasets", "detector", "ops", "tools", "tests", "pyproject.toml", "setup.py")
QUICK = (
    "trainer.max_steps=2",
    "trainer.max_minutes=1",
    "dataset.train=4",
    "dataset.test=2",
    "backbone.weights=null",
    "trainer.device=cpu",
)


def changed(text: str, diff: str, where: str) -> str:
    """Apply a diff without line numbers. Its lines without + must occur once in the text, together."""
    lines = diff.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    assert text.count(before) == 1, f"{where}: in the file {text.count(before)} times:\n{before}"
    return text.replace(before, after)


def test_a_diff_is_applied_only_where_it_fits() -> None:
    assert changed("a\nb\nc\n", " a\n-b\n+d\n", "x") == "a\nd\nc\n"
    with pytest.raises(AssertionError, match="in the file 0 times"):
        changed("a\nb\nc\n", "-b\n+d\n a\n", "x")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the source, imported as a checkout is: through the links in detector/."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.o")
            shutil.copytree(source, tmp_path / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(source, tmp_path / name)
    return tmp_path


@pytest.fixture
def run(copy: Path) -> Callable[[list[str]], str]:
    """A function that runs Python with these words and returns what it printed."""

    def start(words: list[str]) -> str:
        environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "DETECTOR_NATIVE": "cpu"}
        result = subprocess.run(
            [sys.executable, *words], cwd=copy, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, f"{words}\n{result.stdout[-2000:]}{result.stderr[-3000:]}"
        return result.stdout

    return start


def follow(page: str, copy: Path, run: Callable[[list[str]], str], photographs: Path | None = None) -> list[str]:
    """Follow the steps of a page. Return what its Python programs printed."""
    blocks = FENCE.findall((TUTORIALS / page).read_text())
    assert any(title for _, title, _ in blocks)
    printed = []
    for language, title, text in blocks:
        path = copy / title
        if language == "diff":
            path.write_text(changed(path.read_text(), text, f"{page}: {title}"))
        elif title:
            assert not path.exists(), f"{page}: {title} is there already"
            path.write_text(text)
        elif language == "bash":
            for line in text.replace("\\\n", " ").splitlines():
                words = [word.replace("PHOTOS", str(photographs)) for word in shlex.split(line, comments=True)]
                words = ["hydra.sweeper.n_trials=2" if "n_trials=" in word else word for word in words]
                if words[0] == "pip":
                    continue
                if words[0] == "make":
                    run(["setup.py", "-q", "build_ext", "--inplace"])
                elif words[0] == "python":
                    printed.append(run(words[1:]))
                elif words[1] == "train":
                    given = {word.partition("=")[0] for word in words}
                    # With data= the plan sets these from the photographs.
                    quick = QUICK[:2] + QUICK[4:] if any(word.startswith("data=") for word in words) else QUICK
                    extra = [word for word in quick if word.partition("=")[0] not in given]
                    run(["-m", "detector.tools", *words[1:], *extra])
                else:
                    run(["-m", "detector.tools", *words[1:]])
    return printed


@pytest.mark.parametrize("page", ["new_head.md", "new_reader.md", "new_operator.md"])
def test_the_changes_of_a_page_fit_the_source(page: str) -> None:
    texts: dict[str, str] = {}
    for language, title, text in FENCE.findall((TUTORIALS / page).read_text()):
        if language == "diff":
            before = texts.get(title) or (ROOT / title).read_text()
            texts[title] = changed(before, text, f"{page}: {title}")
        elif title:
            assert not (ROOT / title).exists()
            texts[title] = text
    for title, text in texts.items():  # `make check`, to which the pages lead, accepts the result
        if title.endswith(".py"):
            words = [sys.executable, "-m", "ruff", "check", "--quiet", f"--stdin-filename={title}", "-"]
            result = subprocess.run(words, cwd=ROOT, input=text, capture_output=True, text=True, check=False)
            assert result.returncode == 0, f"{page}: {title}\n{result.stdout}{result.stderr}"


@pytest.mark.slow
def test_the_tutorial_for_a_new_head_works(copy: Path, run: Callable[[list[str]], str]) -> None:
    follow("new_head.md", copy, run)


@pytest.mark.slow
def test_the_tutorial_for_a_new_reader_works(copy: Path, run: Callable[[list[str]], str]) -> None:
    photographs = copy / "photographs"
    data = SyntheticDataset("train", num_images=6, height=96, width=128, seed=0)
    write_voc(photographs, data, range(6))
    shutil.rmtree(photographs / "Annotations")
    shutil.rmtree(photographs / "ImageSets")
    lines = [
        " ".join([f"{item.image_id}.png", *(f"{value:g}" for value in box), data.classes[label - 1]])
        for item in data.annotations
        for box, label in zip(item.boxes.tolist(), item.labels.tolist(), strict=True)
    ]
    (photographs / "boxes.txt").write_text("\n".join(lines))
    follow("new_reader.md", copy, run, photographs)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler here")
def test_the_tutorial_for_a_new_operator_works(copy: Path, run: Callable[[list[str]], str]) -> None:
    follow("new_operator.md", copy, run)


@pytest.fixture
def photographs(copy: Path) -> Path:
    """Six annotated pictures in photographs/, and one in street.jpg."""
    data = SyntheticDataset("train", num_images=6, height=96, width=128, seed=0)
    write_voc(copy / "photographs", data, range(6))
    Image.fromarray(data.image(0).permute(1, 2, 0).numpy()).save(copy / "street.jpg")
    return copy / "photographs"


@pytest.mark.slow
def test_the_tutorial_for_photographs_works(copy: Path, photographs: Path, run: Callable[[list[str]], str]) -> None:
    script = (TUTORIALS / "own_photographs.py").read_text()
    quick = '"backbone.weights": None, "trainer.max_steps": 3'
    for written, replacement in {
        '"PHOTOS"': f'"{photographs.name}"',
        "minutes=20": "minutes=1",
        'output_dir="runs/mine")': f'output_dir="runs/mine", settings={{{quick}}})',
        '{"head": "rfcn"}': f'{{"head": "rfcn", {quick}}}',
    }.items():
        assert written in script
        script = script.replace(written, replacement)
    (copy / "own.py").write_text(script)
    printed = run(["own.py"])
    assert re.search(r"^mAP [01]\.\d+$", printed, re.MULTILINE)
    assert re.search(r"^R-FCN [01]\.\d+$", printed, re.MULTILINE)
    assert "`runs/mine/analysis.html`" in script
    assert (copy / "runs/mine/analysis.html").is_file()


@pytest.mark.slow
def test_the_tutorial_for_onnx_works(copy: Path, photographs: Path, run: Callable[[list[str]], str]) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    planned = [f"data={photographs}", "output_dir=runs/mine", "backbone.weights=null", "trainer.device=cpu"]
    run(["-m", "detector.tools", "train", *planned, "trainer.max_steps=4"])
    _, compared = follow("deploy_onnx.md", copy, run)
    name, count, *_, difference = compared.split()
    assert name == "street.jpg"
    assert int(count) > 0
    assert float(difference) < 1e-4


@pytest.mark.slow
def test_the_tutorial_for_optuna_works(copy: Path, run: Callable[[list[str]], str]) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    (best,) = follow("sweep_optuna.md", copy, run)
    assert len(best.splitlines()) == 2
    assert "optimizer.lr" in best
    assert len(json.loads((copy / "runs/seeds/summary.json").read_text())) == 3
