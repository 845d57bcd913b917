"""Dumps: all values read back bit for bit, and each malformed file gives one error that names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.metrics import voc
from detector.metrics.dump import Dump, read_dump, write_dump
from detector.metrics.tables import DetectionTable, TruthTable

TABLE = DetectionTable(
    image_ids=("000001", "000002", "000003"),
    classes=("cat", "dog"),
    image_index=np.array([0, 2, 2]),
    boxes=np.array([[0.1, 0.2, 10 / 3, 4.0], [1.0, 1, 2, 2], [0, 0, 5, 5]]),
    scores=np.array([1 / 3, 0.5, 1e-9]),
    labels=np.array([1, 2, 2]),
    unsearched=("cat",),
)
POSTPROCESS = {"score_threshold": 0.05, "nms": {"iou_threshold": 0.3}}


def test_a_dump_reads_back_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "detections.npz"
    write_dump(Dump(TABLE, "voc 2007_test", POSTPROCESS, "ab12"), path)
    dump = read_dump(path)
    assert (dump.dataset, dump.postprocess, dump.model) == ("voc 2007_test", POSTPROCESS, "ab12")
    for name in DetectionTable.__slots__:
        assert np.array_equal(getattr(dump.detections, name), getattr(TABLE, name)), name
    assert [file.name for file in tmp_path.iterdir()] == ["detections.npz"]


def test_an_empty_dump_reads_back(tmp_path: Path) -> None:
    empty = DetectionTable.from_detections([], [], ["cat"])
    write_dump(Dump(empty, "none"), tmp_path / "empty.npz")
    assert read_dump(tmp_path / "empty.npz").detections.classes == ("cat",)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "detections.npz"
    write_dump(Dump(TABLE, "old"), path)
    with pytest.raises(TypeError):
        write_dump(Dump(TABLE, "new", {"unwritable": object()}), path)
    assert read_dump(path).dataset == "old"
    assert len(list(tmp_path.iterdir())) == 1


def damaged(folder: Path, **change: Any) -> Path:
    """Write a dump with columns replaced, or removed if None is given."""
    write_dump(Dump(TABLE, "voc"), folder / "good.npz")
    with np.load(folder / "good.npz") as archive:
        arrays = {name: archive[name] for name in archive.files} | change
    path = folder / "bad.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_index": np.array([0, 2, 3])}, "detection 2: unknown image number 3, the table lists 3,"),
        ({"scores": np.array([0.5, np.nan, 0.1])}, "detection 1, image 000003: the score is NaN"),
        ({"boxes": TABLE.boxes[:, [2, 1, 0, 3]]}, "detection 0, image 000001: the box .* is inverted"),
        ({"classes": np.array(["cat"])}, "detection 1, image 000003: label 2 has no class, expected 1..1"),
        ({"image_ids": np.array(["000001", "000001", "000003"])}, "expected every image once, got 000001 2 times"),
        ({"scores": None}, "missing or malformed: 'scores'"),
        ({"scores": np.array([0.5])}, "expected 3 detections in every column"),
        ({"labels": np.array([1.0, 2.0, 2.0])}, "column labels has type float64"),
        ({"boxes": np.zeros(12)}, "column boxes has type float64 and shape"),
        ({"about": None}, "missing or malformed: 'about'"),
        ({"about": np.array("{")}, "Expecting property name"),
        ({"about": np.array(json.dumps({"version": 2}))}, "expected version 1 of the dump format, got 2"),
    ],
)
def test_a_malformed_dump_is_one_clear_error(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = damaged(tmp_path, **change)
    with pytest.raises(ValueError, match=message) as error:
        read_dump(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut short"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(ValueError, match="bad.npz: expected a dump"):
        read_dump(tmp_path / "bad.npz")
    with pytest.raises(ValueError, match="absent.npz: expected a dump"):
        read_dump(tmp_path / "absent.npz")


def test_a_truncated_dump_is_refused(tmp_path: Path) -> None:
    path = damaged(tmp_path)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(ValueError, match="bad.npz: expected a dump"):
        read_dump(path)


@pytest.mark.parametrize(("place", "value"), [(8, 99), (8, 8), (4, 255), (6, 1)])  # method, version, flags: encrypted
def test_archives_of_unknown_kinds_are_refused(tmp_path: Path, place: int, value: int) -> None:
    path = damaged(tmp_path)
    content = bytearray(path.read_bytes())
    for mark, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        for start in [at for at in range(len(content)) if content.startswith(mark, at)]:
            content[start + place + shift] = value
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="bad.npz: expected a dump"):
        read_dump(path)


def test_a_bare_array_and_a_pickle_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.save(tmp_path / "pickle.npy", np.array([object()]), allow_pickle=True)
    for name in ("array.npy", "pickle.npy"):
        with pytest.raises(ValueError, match=f"{name}: expected a dump"):
            read_dump(tmp_path / name)


def test_a_dump_of_another_dataset_is_refused(tmp_path: Path) -> None:
    write_dump(Dump(TABLE, "voc"), tmp_path / "detections.npz")
    detections = read_dump(tmp_path / "detections.npz").detections
    none = np.zeros(0, np.int64)
    truths = TruthTable(TABLE.image_ids, ("cat", "dog", "cow"), none, np.zeros((0, 4)), none, np.zeros(0, bool))
    with pytest.raises(ValueError, match="missing class cow"):
        voc.evaluate(detections, truths)
