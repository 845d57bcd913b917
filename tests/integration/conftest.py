"""A small VOC-format folder of synthetic pictures, and the settings of a network that overfits it in seconds."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from detector.datasets.synthetic import SyntheticDataset
from detector.tools import cli

NUM_IMAGES = 6


def write_voc(root: Path, dataset: SyntheticDataset, indices: Iterable[int]) -> None:
    """Write the pictures `indices` of the dataset as PNG and XML (1-based, inclusive), with the split `all`."""
    ids = []
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for index in indices:
        item = dataset.annotations[index]
        ids.append(item.image_id)
        Image.fromarray(dataset.image(index).permute(1, 2, 0).numpy()).save(
            root / "JPEGImages" / f"{item.image_id}.png"
        )
        objects = "".join(
            f"<object><name>{dataset.classes[label - 1]}</name><difficult>{difficult:d}</difficult><bndbox>"
            f"<xmin>{x1 + 1:.0f}</xmin><ymin>{y1 + 1:.0f}</ymin><xmax>{x2:.0f}</xmax><ymax>{y2:.0f}</ymax>"
            "</bndbox></object>"
            for (x1, y1, x2, y2), label, difficult in zip(
                item.boxes.tolist(), item.labels.tolist(), item.difficult.tolist(), strict=True
            )
        )
        size = f"<size><width>{item.width}</width><height>{item.height}</height></size>"
        (root / "Annotations" / f"{item.image_id}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    (root / "ImageSets" / "Main" / "all.txt").write_text("".join(f"{name}\n" for name in ids))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VOC-format folder of six pictures of 96 x 128."""
    root = tmp_path_factory.mktemp("voc")
    write_voc(root, SyntheticDataset("train", num_images=NUM_IMAGES, height=96, width=128, seed=0), range(NUM_IMAGES))
    return root


@pytest.fixture(scope="session")
def settings(pictures: Path) -> list[str]:
    """Overrides that train a narrow network from scratch on these pictures and evaluate it on them."""
    return [
        "dataset=voc",
        f"dataset.root={pictures}",
        "dataset.train=all",
        "dataset.test=all",
        "dataset.classes=[disc,square,triangle,cross,diamond,ring]",
        "backbone=resnet18_narrow",
        "proposals=grid",
        "input.short_sides=[96]",
        "input.test_short_side=96",
        "input.max_side=160",
        "input.flip=false",
        "optimizer.lr=0.02",
        "optimizer.clip_norm=10",
        "optimizer.weight_decay=1e-4",
        "schedule.warmup_steps=30",
        "trainer.max_steps=300",
        "trainer.images_per_step=2",
        "trainer.workers=0",
        "trainer.threads=1",
        "trainer.device=cpu",
        "trainer.eval_every=0",
        "trainer.checkpoint_every=100",
        "trainer.log_every=20",
    ]


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def overfitted(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run: 300 steps, about 10 seconds of one core."""
    folder = tmp_path_factory.mktemp("runs") / "overfitted"
    assert cli.run(["train", *settings, f"output_dir={folder}"]) == 0
    return folder
