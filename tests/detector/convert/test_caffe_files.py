"""The wire format, in both generations, read from files of the tests' own writer. Damage is one error line."""

import importlib.util
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detector.convert.caffe_files import read_caffemodel

_spec = importlib.util.spec_from_file_location("caffe_writer", Path(__file__).with_name("caffe_writer.py"))
assert _spec is not None
assert _spec.loader is not None
writer = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(writer)
blob, caffemodel, field, varint = writer.blob, writer.caffemodel, writer.field, writer.varint


LAYERS = {"conv1": [torch.arange(24.0).reshape(2, 3, 2, 2), torch.tensor([0.5, -1.0])], "fc": [torch.ones(3, 200)]}


@pytest.mark.parametrize("v1", [False, True])
def test_both_generations_are_read(tmp_path: Path, v1: bool) -> None:
    (tmp_path / "net").write_bytes(caffemodel(LAYERS, v1=v1))
    found = read_caffemodel(tmp_path / "net")
    assert found.keys() == LAYERS.keys()
    for name, blobs in LAYERS.items():
        for one, other in zip(found[name], blobs, strict=True):
            assert torch.equal(one, other)
            assert one.dtype == torch.float32


@pytest.mark.parametrize("encoding", [{"double": True}, {"packed": False}])
def test_other_encodings_of_numbers_are_read(tmp_path: Path, encoding: dict[str, bool]) -> None:
    content = field(100, field(1, b"a") + field(7, blob(LAYERS["conv1"][0], **encoding)))
    (tmp_path / "net").write_bytes(content)
    assert torch.equal(read_caffemodel(tmp_path / "net")["a"][0], LAYERS["conv1"][0])


def test_a_scalar_is_read(tmp_path: Path) -> None:
    (tmp_path / "net").write_bytes(caffemodel({"bn": [torch.tensor([1.5])]}, v1=True))
    assert float(read_caffemodel(tmp_path / "net")["bn"][0]) == 1.5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no layer with weights"),
        (b"\xff" * 20, "a number of more than 10 bytes"),
        (b"\x80", "index out of"),
        (field(100, b"\x0a\x50abc"), "goes beyond its message"),
        (b"\x0b\x00", "wire type 3"),
        (field(100, field(1, b"a") + field(7, field(7, field(1, varint(5))) + field(5, b"\0" * 8))), "has 2 values"),
        (field(100, field(1, b"a") + field(7, field(5, b"\0" * 7))), "multiple"),
        (field(100, field(1, b"\xff\xfe") + field(7, blob(torch.ones(1)))), "codec"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "net.caffemodel").write_bytes(content)
    with pytest.raises(ValueError, match="net.caffemodel") as error:
        read_caffemodel(tmp_path / "net.caffemodel")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@given(st.data())
def test_cut_or_changed_bytes_raise_nothing_but_value_errors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(caffemodel({"a": [torch.arange(3.0)], "b": [torch.ones(2, 2)]}))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / "net"
    path.write_bytes(content)
    try:
        layers = read_caffemodel(path)  # most changes only change a weight
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert all(isinstance(blob, torch.Tensor) for blobs in layers.values() for blob in blobs)
