"""Hand-made datasets for the tests of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent.parent


@dataclass
class VOCFolder:
    """Writes a small VOC-format folder, one image at a time."""

    root: Path
    year: str | None = None
    lists: dict[str, list[str]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.root if self.year is None else self.root / f"VOC{self.year}"

    def add(
        self,
        split: str,
        image_id: str,
        objects: Sequence[tuple[str, Sequence[float]]] = (),
        *,
        size: tuple[int, int] | None = (40, 30),
        flags: str = "<difficult>0</difficult><truncated>0</truncated><occluded>0</occluded>",
        suffix: str = ".png",
        image_size: tuple[int, int] = (40, 30),
    ) -> Path:
        """Add an image and its annotation (boxes xmin ymin xmax ymax as in the file). Return the annotation file."""
        for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        stated = "" if size is None else f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
        items = "".join(
            f"<object><name>{name}</name>{flags}<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>"
            f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
            for name, box in objects
        )
        path = self.folder / "Annotations" / f"{image_id}.xml"
        path.write_text(f"<annotation>{stated}{items}</annotation>")
        pixels = np.random.default_rng(len(image_id)).integers(0, 255, (image_size[1], image_size[0], 3), np.uint8)
        Image.fromarray(pixels).save(self.folder / "JPEGImages" / f"{image_id}{suffix}")
        ids = self.lists.setdefault(split, [])
        ids.append(image_id)
        (self.folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(ids) + "\n")
        return path


@pytest.fixture
def voc(tmp_path: Path) -> VOCFolder:
    return VOCFolder(tmp_path / "data")


@pytest.fixture
def voc_folder() -> type[VOCFolder]:
    return VOCFolder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository. Tests that need it are skipped if it is missing."""
    for folder in (ROOT.parent, ROOT.parent.parent):
        if (folder / "shared" / "data").is_dir():
            return folder / "shared" / "data"
    pytest.skip("shared/data is not beside this repository")
