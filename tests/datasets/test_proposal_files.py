"""Proposal files: round trips, published conventions, and files that do not match the dataset."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.datasets.proposal_files import (
    filter_all_proposals,
    filter_proposals,
    from_boxes,
    load_proposals,
    read_npz,
    save_proposals,
)


def dataset_of(*ids: str, width: int = 100, height: int = 80) -> Any:
    return SimpleNamespace(annotations=[SimpleNamespace(image_id=item, width=width, height=height) for item in ids])


A = torch.tensor([[0.0, 0.0, 100.0, 80.0], [1.5, 2.0, 30.25, 40.0]])
B = torch.zeros(0, 4)


def test_saved_proposals_load_in_the_datasets_order(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "boxes.npz"
    save_proposals(path, from_boxes(["a", "b", "c"], [A, B, A + 0.5 - 0.5]))
    found = load_proposals(path, dataset_of("c", "b", "a"))
    assert found.image_ids == ("c", "b", "a")
    assert torch.equal(found.boxes(2), A)
    assert found.boxes(1).shape == (0, 4)
    assert [item.name for item in path.parent.iterdir()] == ["boxes.npz"], "no temporary file is left"


def test_images_that_are_not_in_the_dataset_are_left_out(tmp_path: Path) -> None:
    save_proposals(tmp_path / "x.npz", from_boxes(["a", "b"], [A, A]))
    assert load_proposals(tmp_path / "x.npz", dataset_of("b")).image_ids == ("b",)


def test_missing_images_are_named(tmp_path: Path) -> None:
    save_proposals(tmp_path / "x.npz", from_boxes(["a"], [A]))
    with pytest.raises(ValueError, match=r"none for 2 of the dataset's 3 \(first: b, c\)"):
        load_proposals(tmp_path / "x.npz", dataset_of("a", "b", "c"))


@pytest.mark.parametrize("box", [[0, 0, 101, 5], [0, 0, 5, 81], [-1, 0, 5, 5], [9, 0, 5, 5], [0, 0, float("nan"), 5]])
def test_inverted_boxes_and_boxes_outside_are_named(tmp_path: Path, box: list[float]) -> None:
    save_proposals(tmp_path / "x.npz", from_boxes(["a", "b"], [A, torch.tensor([*A.tolist(), box])]))
    with pytest.raises(
        ValueError, match=r"image b \(100x80\) has 1 boxes that are inverted or outside \(first: number 2"
    ):
        load_proposals(tmp_path / "x.npz", dataset_of("a", "b"))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        load_proposals(tmp_path / "x.npz", dataset_of("a"))


@pytest.mark.parametrize(("place", "value"), [(8, 99), (4, 255), (6, 1)])  # method, version, flags: encrypted
def test_zip_files_of_unknown_kinds_are_refused(tmp_path: Path, place: int, value: int) -> None:
    path = tmp_path / "x.npz"
    save_proposals(path, from_boxes(["a"], [A]))
    content = bytearray(path.read_bytes())
    for mark, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        for start in [at for at in range(len(content)) if content.startswith(mark, at)]:
            content[start + place + shift] = value
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="not a proposal file of this project") as error:
        load_proposals(path, dataset_of("a"))
    assert str(error.value).startswith(str(path))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    save_proposals(path, from_boxes(["a"], [A]))
    whole = path.read_bytes()
    for content in (whole[:100], b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a proposal file of this project"):
            read_npz(path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": 2}, "format 2"),
        ({"convention": "yxyx"}, "'yxyx'"),
        ({"offsets": np.array([0, 1])}, "do not fit together"),
        ({"offsets": np.array([0, 2, 1])}, "do not fit together"),
        ({"offsets": np.array([0, 3, 2])}, "do not fit together"),
        ({"boxes": np.zeros((2, 5), np.float32)}, "do not fit together"),
        ({"image_ids": np.array(["a", "a"])}, "image a occurs twice"),
    ],
)
def test_inconsistent_files_are_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    path = tmp_path / "x.npz"
    save_proposals(path, from_boxes(["a", "b"], [A, B]))
    with np.load(path) as file:
        np.savez(path, **{**dict(file), **changed})
    with pytest.raises(ValueError, match=message):
        read_npz(path)


corners = st.lists(
    st.tuples(st.integers(1, 50), st.integers(1, 40), st.integers(0, 50), st.integers(0, 40)).map(
        lambda item: (item[0], item[1], item[0] + item[2], item[1] + item[3])
    ),
    min_size=1,
    max_size=4,
)


@settings(deadline=None)
@given(st.lists(corners, min_size=1, max_size=3))
def test_a_mat_file_of_a_split_is_read(
    tmp_path_factory: pytest.TempPathFactory, images: list[list[tuple[int, ...]]]
) -> None:
    """Boxes x1 y1 x2 y2 count from 1. The file has y1 x1 y2 x2, as the original. They are read as 0-based half-open."""
    savemat = pytest.importorskip("scipy.io", reason="needs the extra `proposals`").savemat
    path = tmp_path_factory.mktemp("mat") / "boxes.mat"
    cell = np.empty((1, len(images)), object)
    for index, boxes in enumerate(images):
        cell[0, index] = np.array(boxes, np.uint16)[:, [1, 0, 3, 2]]
    savemat(path, {"boxes": cell})
    found = load_proposals(path, dataset_of(*map(str, range(len(images)))))
    for index, boxes in enumerate(images):
        assert found.boxes(index).tolist() == [[x1 - 1, y1 - 1, x2, y2] for x1, y1, x2, y2 in boxes]


def test_a_mat_file_of_another_split_is_refused(tmp_path: Path) -> None:
    savemat = pytest.importorskip("scipy.io", reason="needs the extra `proposals`").savemat
    cell = np.empty((1, 2), object)
    cell[0, :] = [np.ones((1, 4)), np.ones((1, 4))]
    savemat(tmp_path / "x.mat", {"boxes": cell})
    with pytest.raises(ValueError, match="has boxes for 2 images, but the image list has 3"):
        load_proposals(tmp_path / "x.mat", dataset_of("a", "b", "c"))
    savemat(tmp_path / "y.mat", {"rois": cell})
    with pytest.raises(ValueError, match="expected a variable `boxes`, found rois"):
        load_proposals(tmp_path / "y.mat", dataset_of("a", "b"))
    (tmp_path / "z.mat").write_text("nonsense")
    with pytest.raises(ValueError, match="not a readable .mat file"):
        load_proposals(tmp_path / "z.mat", dataset_of("a", "b"))


def test_a_mat_file_without_scipy_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "scipy.io", None)
    (tmp_path / "x.mat").touch()
    with pytest.raises(ValueError, match=r"needs scipy; pip install 'fast-rfcn\[proposals\]'"):
        load_proposals(tmp_path / "x.mat", dataset_of("a"))


@pytest.mark.parametrize(
    ("image_id", "height", "convention"),
    [("000004", 406, "xyxy-0"), ("001551", 375, "xyxy-0"), ("000166", 375, "xyxy-1"), ("005225", 375, "xyxy-1")],
)
def test_published_boxes_are_read(shared_data: Path, image_id: str, height: int, convention: str) -> None:
    """Compare a folder with one .mat file per image with the same boxes as arrays. A wrong convention is refused."""
    pytest.importorskip("scipy.io", reason="needs the extra `proposals`")
    dataset = dataset_of(image_id, width=500, height=height)
    found = load_proposals(shared_data / "proposals", dataset, convention=convention).boxes(0)
    with np.load(shared_data / "proposals" / f"{image_id}.npz") as file:
        raw = torch.from_numpy(file["boxes"]).float()
    shift = (0, 0, 1, 1) if convention == "xyxy-0" else (-1, -1, 0, 0)
    assert torch.equal(found, raw + torch.tensor(shift))
    with pytest.raises(ValueError, match=f"image {image_id}"):
        load_proposals(shared_data / "proposals", dataset, convention="yxyx-1")


def test_an_unknown_convention_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one of yxyx-1, xyxy-1, xyxy-0"):
        load_proposals(tmp_path, dataset_of("a"), convention="xywh")


def test_an_image_without_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no proposals of image a; expected a.mat or a_boxes.mat"):
        load_proposals(tmp_path, dataset_of("a"))


def test_prepared_proposals_equal_hand_computed_ones() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [0.2, 0, 9.4, 9], [5, 5, 6, 9], [3, 3, 5, 5], [0, 0, 9, 9], [1, 1, 8, 8]])
    assert filter_proposals(boxes, top_k=9, min_size=2).tolist() == [
        boxes[0].tolist(),
        boxes[3].tolist(),
        boxes[5].tolist(),
    ]
    assert filter_proposals(boxes, top_k=2, min_size=2).tolist() == [boxes[0].tolist(), boxes[3].tolist()]
    assert filter_proposals(torch.zeros(0, 4), top_k=2, min_size=2).shape == (0, 4)


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 65535)] * 4), max_size=30), st.integers(1, 40))
def test_prepared_proposals_equal_a_loop(rows: list[tuple[int, ...]], top_k: int) -> None:
    expected: list[list[float]] = []
    for row in rows:
        keep = row[2] - row[0] >= 3 and row[3] - row[1] >= 3 and [float(value) for value in row] not in expected
        expected += [[float(value) for value in row]] * keep
    found = filter_proposals(torch.tensor(rows, dtype=torch.float32).reshape(-1, 4), top_k=top_k, min_size=3)
    assert found.tolist() == expected[:top_k]


def test_prepare_all_keeps_the_images() -> None:
    ready = filter_all_proposals(from_boxes(["a", "b"], [A, B]), top_k=1, min_size=1)
    assert (ready.image_ids, ready.offsets.tolist()) == (("a", "b"), [0, 1, 1])
