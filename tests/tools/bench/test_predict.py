"""`make bench-predict`: the pictures, and the printed rates."""

from pathlib import Path

import pytest
from PIL import Image

from detector.tools.bench.predict import copy_pictures, main


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


def test_both_rates_and_their_ratio_are_printed(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        Image.new("RGB", (64, 48), (0, 90 * number, 0)).save(tmp_path / f"{number}.jpg")
    code = main(["--weights", str(trained), "--images", str(tmp_path), "--count", "4", "--parts", "2"])
    about, *lines = capsys.readouterr().out.splitlines()
    assert about.startswith("4 pictures in 2 parts, batches of 1")
    alone, whole, share = (float(line.split()[place]) for line, place in zip(lines, (2, 2, 3), strict=True))
    assert alone > 0
    assert whole > 0
    assert code == (0 if share >= 0.9 else 1)
