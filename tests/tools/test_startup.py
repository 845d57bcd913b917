"""The modules that the program loads before it answers: wrong words need none of the libraries for training."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

HEAVY = {"torch", "torchvision", "matplotlib", "cv2", "onnx", "tensorboard", "numpy", "scipy", "PIL", "tqdm"}
SETTINGS = {"hydra", "omegaconf", "yaml", "antlr4"}

LIST_MODULES = """
import sys
from detector.tools.cli import run
code = run(sys.argv[1:])
print(code, *sorted(sys.modules), file=sys.stderr)
"""


def loaded_by(*words: str) -> tuple[int, set[str]]:
    """Return the exit code of a command line and the names of all modules that it loaded."""
    done = subprocess.run([sys.executable, "-c", LIST_MODULES, *words], capture_output=True, text=True, check=True)
    code, *modules = done.stderr.splitlines()[-1].split()
    return int(code), set(modules)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], 2),
        (["--help"], 0),
        (["config", "--help"], 0),
        (["trane"], 2),
        (["train", "--epochs"], 2),
        (["train", "trainer.max_step=5"], 2),
        (["train", "trainer.max_step=5", "--multirun"], 2),
        (["alternate", "experiment=demo", "trainer.max_step=5"], 2),
        (["eval", "weights=model.pt", "trainer.max_step=5"], 2),
        (["predict", "batch_sise=5"], 2),
        (["export", "outputt=x"], 2),
        (["convert", "source=x", "headd=rfcn"], 2),
        (["compare", "a=x", "c=y"], 2),
        (["config", "show", "trainer.max_step=5"], 2),
    ],
)
def test_help_and_wrong_words_load_neither_torch_nor_hydra(words: list[str], code: int) -> None:
    found, modules = loaded_by(*words)
    assert found == code
    assert not (HEAVY | SETTINGS) & modules
    assert len(modules) < 160  # including those of the interpreter


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["train", "trainer.max_steps=many"], 2),
        (["train", "head=rcnn"], 2),
        (["train", "--help"], 0),
        (["eval", "trainer.max_steps=0"], 2),
        (["config", "explain", "trainer.max_steps"], 0),
    ],
)
def test_values_and_settings_are_checked_without_torch(words: list[str], code: int) -> None:
    found, modules = loaded_by(*words)
    assert found == code
    assert not HEAVY & modules
    assert len(modules) < 500


COMPILER = {"torch._dynamo", "torch._inductor", "sympy"}
RARE = {"onnx", "onnxruntime", "onnxscript", "matplotlib", "cv2", "scipy", "pycocotools"}


def test_commands_load_only_the_libraries_that_they_use() -> None:
    without_network = ("dataset", "inspect", "evaluate", "compare", "info")
    script = "import sys, importlib\nfor names in sys.argv[1:]:\n"
    script += " for name in names.split(): importlib.import_module(f'detector.tools.commands.{name}')\n"
    script += " print(*sys.modules)"
    order = (" ".join(without_network), "predict", "train export")
    done = subprocess.run([sys.executable, "-c", script, *order], capture_output=True, text=True, check=True)
    no_network, predict, train = (set(line.split()) for line in done.stdout.splitlines())
    assert {f"detector.tools.commands.{name}" for name in without_network} <= no_network
    assert not {"torchvision", *COMPILER} & no_network
    assert "detector.tools.commands.predict" in predict
    assert not {"tensorboard", *RARE, *COMPILER} & predict
    assert "tensorboard" in train, "training writes for it"
    assert not {*RARE, *COMPILER} & train


TRAIN_AND_PREDICT = """
import sys
from detector.tools.cli import run
folder, picture, *words = sys.argv[1:]
assert run(["train", f"output_dir={folder}", *words]) == 0
assert run(["predict", f"images={picture}", f"weights={folder}", f"output_dir={folder}/found"]) == 0
print(*sys.modules)
"""
SMALL_RUN = (
    "experiment=demo", "dataset.train=4", "dataset.test=1", "trainer.max_steps=1", "backbone=torchvision",
    "backbone.name=mobilenet_v2", "backbone.weights=null", "backbone.norm=gn", "backbone.frozen_nodes=null",
    "backbone.tail_channels=16",
)  # fmt: skip


def test_training_and_prediction_never_load_the_compiler(tmp_path: Path) -> None:
    """torch's compiler takes longer to import than torch itself."""
    picture = tmp_path / "grey.png"
    Image.new("RGB", (96, 64), "grey").save(picture)
    words = [str(tmp_path / "run"), str(picture), *SMALL_RUN]
    done = subprocess.run([sys.executable, "-c", TRAIN_AND_PREDICT, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not {*RARE, *COMPILER} & set(done.stdout.splitlines()[-1].split())
