"""A folder that has what the documentation's commands name: photographs, pictures, trained runs."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detector.datasets.synthetic import SyntheticDataset
from detector.tools import cli
from tests.integration.conftest import write_voc

CLASSES = {"disc": "cat", "square": "dog", "triangle": "person"}
# Settings that make any training small: with a plan, and of experiment=demo.
ANY = ("trainer.max_steps=2", "trainer.device=cpu", "trainer.workers=0")
PLANNED = (*ANY, "backbone.weights=null", "input.short_sides=[64]", "input.test_short_side=64")
FAST_RCNN = ("backbone.tail_channels=32", "proposals.channels=16")
DEMO = (*ANY, "dataset.train=4", "dataset.test=2")
TRAININGS = (
    ("data=PHOTOS", "trainer.max_minutes=20", "output_dir=runs/mine", *PLANNED, *FAST_RCNN),
    (
        "dataset=auto",
        "dataset.root=PHOTOS",
        "head=rfcn",
        "head.channels=32",
        "backbone=resnet18_narrow",
        "proposals=grid",
        "output_dir=runs/my_rfcn",
        *PLANNED,
    ),
    ("experiment=demo", "output_dir=runs/demo", *DEMO),
)
CONFIGS = {
    "experiment/mine.yaml": "# @package _global_\ndefaults:\n  - demo\n",
    "head/rfcn_k5.yaml": "defaults: [rfcn_schema]\nk: 5\nchannels: 16\n",
}


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder. It is made once, also if several processes run the tests."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "furnished"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "model.safetensors").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            _furnish(folder)
    return folder


@pytest.fixture
def place(furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the folder, as the current directory."""

    def copied(source: str, target: str) -> None:
        # Models are replaced, never written in place, so the copy can share them.
        (os.link if source.endswith((".pt", ".safetensors")) else shutil.copy)(source, target)

    folder = tmp_path / "place"
    shutil.copytree(furnished, folder, symlinks=True, copy_function=copied)
    monkeypatch.chdir(folder)
    threads = torch.get_num_threads()
    yield folder
    torch.set_num_threads(threads)


def _furnish(folder: Path) -> None:
    data = SyntheticDataset("train", num_images=12, height=96, width=128, seed=0)
    _write_photographs(folder / "PHOTOS", data, range(8))
    _write_photographs(folder / "MORE_PHOTOS", data, range(8, 10))
    _write_photographs(folder / "OLD_PHOTOS", data, range(10, 12))
    for path in (folder / "MORE_PHOTOS").glob("*.xml"):
        path.write_text(path.read_text().replace("cat", "Cat"))
    for name in ("my_photos", "photos", "FOLDER"):
        (folder / name).symlink_to("PHOTOS")
    noise = np.random.default_rng(0).integers(0, 256, (320, 400, 3), np.uint8)
    (folder / "AERIAL").mkdir()
    for name in ("photo.jpg", "street.jpg", "AERIAL/1.jpg"):
        Image.fromarray(noise).save(folder / name)
    for name, text in CONFIGS.items():
        path = folder / "my_configs" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in TRAININGS:
            assert cli.run(["train", *words]) == 0
        for name in ("one", "two"):
            shutil.copytree("runs/mine", f"runs/{name}")
        for name, target in {"RUN": "runs/mine", "MODEL": "runs/mine", "runs/vgg": "mine"}.items():
            Path(name).symlink_to(target)
        shutil.copy("runs/mine/model.safetensors", "model.safetensors")


def _write_photographs(folder: Path, data: SyntheticDataset, indices: range) -> None:
    """Write pictures and VOC XML into one folder, as LabelImg does."""
    write_voc(folder, data, indices)
    for path in [*folder.glob("Annotations/*"), *folder.glob("JPEGImages/*")]:
        path.rename(folder / path.name)
    for name in ("Annotations", "JPEGImages", "ImageSets"):
        shutil.rmtree(folder / name)
    for path in folder.glob("*.xml"):
        text = path.read_text()
        for drawn, name in CLASSES.items():
            text = text.replace(f"<name>{drawn}<", f"<name>{name}<")
        path.write_text(text)
