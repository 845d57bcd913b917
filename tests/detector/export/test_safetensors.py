"""The file format: written files read back, and other files are refused."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from detector.export.safetensors import DTYPES, fingerprint, read_metadata, read_safetensors, write_safetensors

TENSORS = {
    "a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "empty": torch.zeros(0, 4),
    "half": torch.tensor([1.5, -2.0, 0.25], dtype=torch.bfloat16),
    "scalar": torch.tensor(7),
    "odd": torch.tensor([1, 2, 3], dtype=torch.uint8),
}
METADATA = {"format": "fast-rfcn", "note": 'quotes " and \u00e9'}


def packed(tensors: dict[str, Tensor] = TENSORS, metadata: dict[str, str] = METADATA) -> bytes:
    file = io.BytesIO()
    write_safetensors(file, tensors, metadata)
    return file.getvalue()


def with_header(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def raw_bytes(tensor: Tensor) -> list[int]:
    """Return the stored bytes. 0.0 and -0.0 are equal numbers, but not equal bytes."""
    values: list[int] = tensor.reshape(-1).view(torch.uint8).tolist()
    return values


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def test_a_written_file_reads_back(path: Path) -> None:
    path.write_bytes(packed())
    tensors, metadata = read_safetensors(path)
    assert metadata == METADATA == read_metadata(path)
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


def test_the_layout_follows_the_specification(path: Path) -> None:
    """Read by hand, as the format's README describes."""
    content = packed()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert length % 8 == 0, "the data are aligned"
    entry = header["a.weight"]
    assert (entry["dtype"], entry["shape"]) == ("F32", [2, 3])
    start, end = entry["data_offsets"]
    values = torch.frombuffer(bytearray(content[8 + length + start : 8 + length + end]), dtype=torch.float32)
    assert values.tolist() == [0, 1, 2, 3, 4, 5]
    for entry in header.values():
        if "dtype" in entry:
            assert entry["data_offsets"][0] % DTYPES[entry["dtype"]].itemsize == 0, "each tensor is aligned"


def test_other_memory_layouts_are_written_row_major(path: Path) -> None:
    image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    path.write_bytes(packed({"x": image, "y": image[:, :, ::2]}))
    tensors, _ = read_safetensors(path)
    assert torch.equal(tensors["x"], image)
    assert torch.equal(tensors["y"], image[:, :, ::2])


def test_the_reference_reader_agrees(path: Path) -> None:
    reference = pytest.importorskip("safetensors.torch")
    path.write_bytes(packed())
    for name, tensor in reference.load_file(path).items():
        assert torch.equal(tensor, TENSORS[name])
    reference.save_file({"x": torch.ones(3)}, path, {"by": "another"})
    assert read_safetensors(path)[0]["x"].tolist() == [1, 1, 1]


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "header of 0 bytes in a file of 0"),
        (b"PK\x03\x04 something else entirely", "its first 8 bytes give a header of"),
        ((1 << 60).to_bytes(8, "little") + b"{}", "header of 1152921504606846976 bytes in a file of 10"),
        (with_header(b"{" * 50, b""), "not JSON"),
        (with_header(b"[" * 200_000, b""), "not JSON"),
        (with_header(b"\xff\xfe", b""), "not JSON"),
        (with_header([], b""), "its header is a list"),
        (with_header({"__metadata__": {"a": 1}}, b""), "metadata are not strings"),
        (with_header({"__metadata__": "a"}, b""), "metadata are not strings"),
        (with_header(b'{"x":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"x":{}}', b""), "a name occurs twice"),
        (with_header({"x": ENTRY | {"dtype": "F33"}}, b"\0" * 8), "the entry of x is invalid"),
        (with_header({"x": ENTRY | {"dtype": ["F32"]}}, b"\0" * 8), "the entry of x is invalid"),
        (with_header({"x": ENTRY | {"shape": [-2]}}, b"\0" * 8), "the entry of x is invalid"),
        (with_header({"x": ENTRY | {"shape": [2.0]}}, b"\0" * 8), "the entry of x is invalid"),
        (with_header({"x": ENTRY | {"shape": [True, 2]}}, b"\0" * 8), "the entry of x is invalid"),
        (with_header({"x": ENTRY | {"shape": [3]}}, b"\0" * 8), "the entry of x is invalid"),
        (with_header({"x": ENTRY | {"data_offsets": [0]}}, b"\0" * 8), "the entry of x is invalid"),
        (with_header({"x": ENTRY | {"data_offsets": [8, 0]}}, b"\0" * 8), "the entry of x is invalid"),
        (with_header({"x": 3}, b""), "the entry of x is invalid"),
        (
            with_header({"x": ENTRY | {"shape": [1 << 40], "data_offsets": [0, 1 << 42]}}, b""),
            "take 4398046511104 bytes",
        ),
        (with_header({"x": ENTRY}, b"\0" * 7), "its tensors take 8 bytes, but 7 follow"),
        (with_header({"x": ENTRY}, b"\0" * 9), "its tensors take 8 bytes, but 9 follow"),
        (with_header({"x": ENTRY, "y": ENTRY}, b"\0" * 16), "y begins at byte 0 of the data, expected 8"),
        (with_header({"x": ENTRY | {"data_offsets": [4, 12]}}, b"\0" * 12), "x begins at byte 4"),
    ],
)
def test_a_file_that_breaks_the_format_is_refused_in_one_line(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged or not a safetensors file") as error:
        read_safetensors(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_a_missing_file_is_named(path: Path) -> None:
    with pytest.raises(ValueError, match="found no such file"):
        read_safetensors(path)


def test_a_dtype_that_cannot_be_stored_is_named() -> None:
    with pytest.raises(ValueError, match="x: cannot store a tensor of torch.complex64"):
        packed({"x": torch.zeros(1, dtype=torch.complex64)})


@given(st.integers(0, len(packed()) * 8 - 1))
@example(3103)  # the sign of a zero
def test_any_flipped_bit_is_refused_or_changes_the_fingerprint_or_nothing(tmp_path_factory: Any, bit: int) -> None:
    content = bytearray(packed())
    content[bit // 8] ^= 1 << bit % 8
    path = tmp_path_factory.mktemp("flip") / "model.safetensors"
    path.write_bytes(content)
    try:
        tensors, metadata = read_safetensors(path)
    except ValueError:
        return
    same = metadata == METADATA and all(
        raw_bytes(tensors[name]) == raw_bytes(TENSORS[name]) for name in TENSORS if name in tensors
    )
    same = same and {k: (v.dtype, v.shape) for k, v in tensors.items()} == {
        k: (v.dtype, v.shape) for k, v in TENSORS.items()
    }
    assert (fingerprint(tensors, metadata) == fingerprint(TENSORS, METADATA)) == same
