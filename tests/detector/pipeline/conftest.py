"""A small folder of annotated pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures with one bright square each, in VOC's folder layout."""
    root: Path = tmp_path_factory.mktemp("squares")
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(8):
        pixels = rng.integers(0, 80, (64, 96, 3), dtype=np.uint8)
        x, y = (int(value) for value in rng.integers(1, 40, 2))
        pixels[y : y + 20, x : x + 20] = 220
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{number}.jpg")
        (root / "Annotations" / f"{number}.xml").write_text(
            f"<annotation><filename>{number}.jpg</filename><size><width>96</width><height>64</height></size><object>"
            f"<name>square</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + 20}</xmax>"
            f"<ymax>{y + 20}</ymax></bndbox></object></annotation>"
        )
    for split, numbers in (("trainval", range(5)), ("test", range(5, 8))):
        (root / "ImageSets/Main" / f"{split}.txt").write_text("".join(f"{number}\n" for number in numbers))
    return root
