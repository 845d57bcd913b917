"""Matlab files are checked before scipy reads them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from detector.datasets.mat_files import read_mat

savemat = pytest.importorskip("scipy.io", reason="needs the extra `proposals`").savemat


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("cells", [False, True])
def test_other_variables_and_empty_cells_of_a_mat_file(tmp_path: Path, packed: bool, cells: bool) -> None:
    boxes = np.empty((1, 2), object)
    boxes[0, 0], boxes[0, 1] = np.array([[1, 2, 30, 40]], np.uint16), np.zeros((0, 4))
    content = {"images": np.array(["a", "b"], object), "about": {"x": "y"}, "boxes": boxes if cells else boxes[0, 0]}
    savemat(tmp_path / "a.mat", {**content, "z": 1j}, do_compression=packed)
    if cells:
        found = read_mat(tmp_path / "a.mat", ["a", "b"], convention="xyxy-1")
        assert [item.tolist() for item in found] == [[[0, 1, 30, 40]], []]
    else:
        assert read_mat(tmp_path, ["a"], convention="xyxy-1")[0].tolist() == [[0, 1, 30, 40]]


@pytest.mark.parametrize("value", ["text", {"a": 1}, np.ones((2, 4)) * 1j])
def test_mat_files_with_other_values_are_refused(tmp_path: Path, value: object) -> None:
    savemat(tmp_path / "a.mat", {"boxes": value})
    with pytest.raises(ValueError, match=r"a\.mat: not a readable .* \(it has other values than real numbers\)"):
        read_mat(tmp_path / "a.mat", ["a"])


def test_changed_bytes_of_a_mat_file_raise_nothing_but_value_errors(tmp_path: Path) -> None:
    """scipy crashes on some: on numbers of the type of a matrix, for example."""
    path = tmp_path / "a.mat"
    boxes = np.empty((2, 1), object)
    boxes[0, 0], boxes[1, 0] = np.ones((2, 4)), np.ones((1, 4), np.uint16)
    savemat(path, {"boxes": boxes})
    whole = path.read_bytes()
    for at in range(124, len(whole), 4):  # the first bytes of types, sizes and classes
        for value in (0, 1, 9, 14, 127, 255):
            path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            with suppress(ValueError):
                read_mat(path, ["a", "b"])
