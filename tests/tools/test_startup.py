"""The modules that the program loads before it answers: wrong words need none of the libraries for training."""

import subprocess
import sys

import pytest

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


def test_commands_load_only_the_libraries_that_they_use() -> None:
    """torchvision loads torch's compiler with it, which takes longer than torch itself."""
    without_network = ("dataset", "inspect", "evaluate", "compare", "info")
    script = "import sys, importlib\nfor names in sys.argv[1:]:\n"
    script += " for name in names.split(): importlib.import_module(f'detector.tools.commands.{name}')\n"
    script += " print(*sys.modules)"
    order = (" ".join(without_network), "predict", "train export")
    done = subprocess.run([sys.executable, "-c", script, *order], capture_output=True, text=True, check=True)
    no_network, predict, train = (set(line.split()) for line in done.stdout.splitlines())
    assert {f"detector.tools.commands.{name}" for name in without_network} <= no_network
    assert not {"torchvision", "torch._dynamo", "sympy"} & no_network
    assert "detector.tools.commands.predict" in predict
    assert not {"tensorboard", "onnx", "onnxruntime", "matplotlib", "cv2", "scipy", "pycocotools"} & predict
    assert "tensorboard" in train, "training writes for it"
    assert not {"onnx", "onnxruntime", "onnxscript", "matplotlib", "cv2", "scipy", "pycocotools"} & train
