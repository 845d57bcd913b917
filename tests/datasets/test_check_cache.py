"""The result of a check is kept as long as its file is unchanged, and never used after a change."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from detector.configs import schema
from detector.datasets import check_cache
from detector.datasets.build import build_datasets, readable_dataset
from detector.datasets.check_cache import cache_folder, cached_results
from detector.datasets.faults import FaultyDataError
from detector.datasets.picture_check import check_pictures

Sizes = dict[str, int]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache for one test. Files count as settled at once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(check_cache, "MIN_AGE_S", 0.0)
    return tmp_path / "cache" / "detector" / "checks"


def make_files(folder: Path, count: int = 3) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number}.bin" for number in range(count)]
    for number, path in enumerate(files):
        path.write_bytes(bytes(10 + number))
    return files


class CountedCheck:
    """A check that records the files it checks."""

    def __init__(self) -> None:
        self.checked: list[str] = []

    def __call__(self, files: Sequence[Path]) -> list[int]:
        self.checked += [path.name for path in files]
        return [path.stat().st_size for path in files]


def results(files: Sequence[Path], check: CountedCheck, version: str = "1") -> list[int]:
    return cached_results("size", files, check, version=version, to_json=lambda value: value or None, from_json=int)


def test_a_file_is_checked_once(tmp_path: Path) -> None:
    files, check = make_files(tmp_path / "data"), CountedCheck()
    assert results(files, check) == [10, 11, 12]
    assert results(files[::-1], check) == [12, 11, 10]
    assert check.checked == ["0.bin", "1.bin", "2.bin"]


def test_a_file_that_changes_is_checked_again(tmp_path: Path) -> None:
    files, check = make_files(tmp_path / "data"), CountedCheck()
    results(files, check)
    times = files[1].stat()
    files[1].write_bytes(bytes(11))  # same size and modification time: only the inode's change time differs
    os.utime(files[1], ns=(times.st_atime_ns, times.st_mtime_ns))
    files[2].write_bytes(bytes(50))
    assert results(files, check) == [10, 11, 50]
    assert check.checked[3:] == ["1.bin", "2.bin"]


def test_results_of_recently_changed_files_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, check = make_files(tmp_path / "data"), CountedCheck()
    monkeypatch.setattr(check_cache, "MIN_AGE_S", 3600.0)
    results(files, check)
    results(files, check)
    assert len(check.checked) == 6


def test_results_of_another_version_are_not_used(tmp_path: Path) -> None:
    files, check = make_files(tmp_path / "data"), CountedCheck()
    results(files, check)
    results(files, check, version="2")
    assert len(check.checked) == 6


def test_results_without_a_value_are_not_kept(tmp_path: Path) -> None:
    files, check = make_files(tmp_path / "data"), CountedCheck()
    files[0].write_bytes(b"")
    assert results(files, check) == results(files, check) == [0, 11, 12]
    assert check.checked[3:] == ["0.bin"]


@pytest.mark.parametrize(
    "damage",
    [
        *(b"", b"{", b"[1, 2]", b"null", b'{"version": "1"}', b'{"version": "1", "files": [1]}'),
        *(b"\xff\xfe", b"[" * 10_000),
    ],
)
def test_a_damaged_cache_is_rebuilt(tmp_path: Path, own_cache: Path, damage: bytes) -> None:
    files, check = make_files(tmp_path / "data"), CountedCheck()
    results(files, check)
    (cache_file,) = own_cache.iterdir()
    cache_file.write_bytes(damage)
    assert results(files, check) == [10, 11, 12]
    assert results(files, check) == [10, 11, 12]
    assert len(check.checked) == 6


@pytest.mark.parametrize("entry", [None, 3, [], ["x"], [10, 0], {"a": 1}])
def test_damaged_entries_are_not_used(tmp_path: Path, own_cache: Path, entry: Any) -> None:
    files, check = make_files(tmp_path / "data"), CountedCheck()
    results(files, check)
    (cache_file,) = own_cache.iterdir()
    content = json.loads(cache_file.read_bytes())
    content["files"] = dict.fromkeys(content["files"], entry)
    content["files"][str(files[2])] = [*content["files"].get("x", []), None]
    cache_file.write_text(json.dumps(content))
    assert results(files, check) == [10, 11, 12]
    assert len(check.checked) == 6


def test_a_cache_that_cannot_be_written_is_not_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    files, check = make_files(tmp_path / "data"), CountedCheck()
    with caplog.at_level("INFO", "detector"):
        assert results(files, check) == [10, 11, 12]
    assert "cannot be stored for the next run" in caplog.text


def test_entries_of_missing_files_are_removed(tmp_path: Path, own_cache: Path) -> None:
    files, check = make_files(tmp_path / "data"), CountedCheck()
    results(files, check)
    files[0].unlink()
    files[1].write_bytes(bytes(99))
    results(files[1:], check)
    (cache_file,) = own_cache.iterdir()
    assert list(json.loads(cache_file.read_bytes())["files"]) == [str(path) for path in files[1:]]


def test_parallel_checks_leave_an_intact_cache(tmp_path: Path, own_cache: Path) -> None:
    files = make_files(tmp_path / "data", 40)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda start: results(files[start:], CountedCheck()), range(30)):
            assert found[-1] == 49
    (cache_file,) = own_cache.iterdir()  # there are no temporary files
    json.loads(cache_file.read_bytes())


def test_the_cache_folder_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "cache" / "detector" / "checks"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for stated in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", stated)
        assert cache_folder() == tmp_path / "home" / ".cache" / "detector" / "checks"


def pair(voc: Any, **settings: Any) -> schema.VOCDatasetConfig:
    for split in ("train", "test"):
        for name in ("a", "b", "c"):
            voc.add(split, f"{split}_{name}", [("cell", (1, 1, 20, 15))], suffix=".jpg")
    return schema.VOCDatasetConfig(root=str(voc.root), train="train", test="test", **settings)


def count_opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    opened: list[Path] = []
    from detector.datasets import picture_check

    for name in ("check_picture", "decode_picture"):
        one = getattr(picture_check, name)
        monkeypatch.setattr(picture_check, name, lambda path, one=one: (opened.append(path), one(path))[1])
    return opened


def test_a_second_start_opens_no_picture(voc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config, opened = pair(voc), count_opened(monkeypatch)
    build_datasets(config)
    assert len(opened) == 6
    build_datasets(config)
    readable_dataset(config, "test")
    assert len(opened) == 6
    config.check = schema.PictureCheck.decode  # results for headers are not valid for pixels
    build_datasets(config)
    assert len(opened) == 12
    config.keep_checks = False
    build_datasets(config)
    assert len(opened) == 18


def test_without_a_check_no_picture_is_opened(voc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = count_opened(monkeypatch)
    build_datasets(pair(voc, check=schema.PictureCheck.none))
    assert not opened


def test_only_decoding_finds_damage_in_the_middle(voc: Any) -> None:
    config = pair(voc)
    path = voc.folder / "JPEGImages/test_a.png"
    (voc.folder / "JPEGImages/test_a.jpg").unlink()
    voc.add("other", "test_a", [("cell", (1, 1, 20, 15))])  # a PNG: it has checksums of its rows
    content = bytearray(path.read_bytes())
    content[200:300] = bytes(100)
    path.write_bytes(content)
    build_datasets(config)
    config.check = schema.PictureCheck.decode
    with pytest.raises(FaultyDataError, match="test_a.png: cannot be read"):
        build_datasets(config)


def test_a_repaired_picture_passes_the_check(voc: Any) -> None:
    config = pair(voc)
    path = voc.folder / "JPEGImages/test_a.jpg"
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    for _ in range(2):
        with pytest.raises(FaultyDataError, match="test_a.jpg"):
            readable_dataset(config, "test")
    path.write_bytes(whole)
    assert len(readable_dataset(config, "test").annotations) == 3


def test_decoding_reads_pictures_of_every_depth(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    Image.fromarray(np.full((8, 9), 4000, np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.full((8, 9), -1.0, np.float32)).save(tmp_path / "negative.tif")
    deep, negative = check_pictures([tmp_path / "deep.png", tmp_path / "negative.tif"], decode=True)
    assert deep == ((9, 8), 1, None)
    assert "its values go from -1 to -1" in str(negative.problem)
