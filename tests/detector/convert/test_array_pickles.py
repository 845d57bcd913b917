"""Pickled arrays are read as numpy reads them. A pickle that could run code is refused."""

import os
import pickle
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from detector.convert.array_pickles import read_array_pickle


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_arrays_are_read_as_numpy_wrote_them(tmp_path: Path, protocol: int) -> None:
    generator = np.random.default_rng(0)
    arrays = {
        "weight": generator.normal(size=(2, 3, 4)).astype(np.float32),
        "columns": np.asfortranarray(generator.normal(size=(3, 5))),
        "count": np.array(7),
        "big": np.arange(4, dtype=">f4"),
        "none": np.zeros((0, 2), np.float32),
    }
    content = {"model": OrderedDict(arrays), "author": "x", "number": np.float32(0.5), "list": [1, 2]}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    found = read_array_pickle(tmp_path / "a.pkl")
    assert (found["author"], found["number"], found["list"]) == ("x", 0.5, [1, 2])
    for name, array in arrays.items():
        assert np.array_equal(found["model"][name].numpy(), array)


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch " + MARK,)


MARK = "harm-was-done"


@pytest.mark.parametrize("content", [Harmful(), {"a": Harmful()}, {"a": torch.zeros(2)}, {"a": Path("x")}])
def test_a_pickle_that_could_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match="which could run code; only arrays of numbers are read"):
        read_array_pickle(tmp_path / "a.pkl")
    assert not (tmp_path / MARK).exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged"),
        (b"no pickle", "damaged"),
        (pickle.dumps([1]), "expected a dictionary, found list"),
        (pickle.dumps({"a": np.array(["x", None], dtype=object)}), "found an array of type 'O8'"),
        (pickle.dumps({"a": np.zeros(4)}).replace(b"\x85\x94", b"\x86\x94"), "damaged"),
    ],
)
def test_a_file_without_a_dictionary_of_arrays_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_array_pickle(tmp_path / "a.pkl")
    assert str(error.value).startswith(f"{tmp_path / 'a.pkl'}: ")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_changed_bytes_raise_nothing_but_value_errors_and_take_little_memory(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "a.pkl"
    whole = pickle.dumps({"model": {"a": np.ones((2, 3), np.float32)}, "author": "x"}, protocol=protocol)
    for at in range(len(whole)):
        for value in (0, ord("r"), 255):
            path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            with suppress(ValueError):
                read_array_pickle(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02}r\xff\xff\xff\x3f.", "stores an object under the number 1073741823"),
        (b"\x80\x02}p1073741823\n.", "stores an object under the number 1073741823"),
        (b"\x80\x02}X\x01\x00\x00\x00acnumpy\nndarray\n)Rs.", "an array has no data"),
        (b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", "damaged, or not a pickle of arrays .RecursionError"),
    ],
)
def test_hostile_pickles_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_array_pickle(tmp_path / "a.pkl")
