"""The pictures of `make bench-predict`: a small folder is used several times, and the parts share no picture."""

from pathlib import Path

import pytest
from PIL import Image

from detector.tools.bench.predict import copy_pictures


@pytest.mark.parametrize(("count", "parts"), [(7, 3), (2, 1), (4, 4)])
def test_parts_hold_copies_of_all_pictures(count: int, parts: int, tmp_path: Path) -> None:
    source, target = tmp_path / "photos", tmp_path / "copies"
    for folder in (source, target):
        folder.mkdir()
    for number in range(3):
        Image.new("RGB", (4, 4), (80 * number, 0, 0)).save(source / f"{number}.png")
    found = copy_pictures(source, target, count, parts)
    names = [name for part in found for name in part]
    assert len(found) == parts
    assert len(set(names)) == len(names) == count
    assert max(map(len, found)) - min(map(len, found)) <= 1
    for part in found:
        for name, path in part.items():
            assert path.read_bytes() == (source / f"{int(name[:5]) % 3}.png").read_bytes()
