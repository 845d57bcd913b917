"""The portable model: its content, its refusals, and folded target statistics, which change no box."""

import json
from pathlib import Path

import pytest
import torch

from detector.build import build_detector
from detector.configs.compose import load_config
from detector.engine.checkpoint import load_weights, shared_names
from detector.export import portable
from detector.export.portable import PortableModel, read_config, read_portable, write_portable
from detector.export.safetensors import fingerprint, read_safetensors, write_safetensors
from detector.model import Detector
from detector.structures import Batch, Instances, Proposals

NARROW = [
    "dataset=synthetic",
    "proposals=grid",
    "backbone=resnet18_narrow",
    "backbone.width=0.125",
    "input.test_short_side=96",
]
RFCN = ["head=rfcn", "head.k=3", "head.channels=16"]
LIGHT_HEAD = ["head=light_head", "head.k=3", "head.mid_channels=8", "head.fc_channels=32"]
HEADS = {
    "fast_rcnn": ["head=fast_rcnn"],
    "fast_rcnn_agnostic": ["head=fast_rcnn", "head.class_agnostic=true"],
    "light_head": LIGHT_HEAD,
    "light_head_specific": [*LIGHT_HEAD, "head.class_agnostic=false"],
    "rfcn": RFCN,
    "rfcn_specific": [*RFCN, "head.class_agnostic=false"],
    "deformable_rfcn": ["head=deformable_rfcn", "head.k=3", "head.channels=16"],
}


def make(head: str) -> Detector:
    torch.manual_seed(0)
    detector = build_detector(load_config([*NARROW, *HEADS[head]]), 3).eval()
    deltas = getattr(detector.head, "deltas", None) or detector.head.box_maps
    with torch.no_grad():
        deltas.weight.normal_(std=0.3)
        deltas.bias.normal_(std=0.3)
        detector.coder.mean.uniform_(-0.2, 0.2)
        detector.coder.std.uniform_(0.05, 0.3)
    return detector


def picture_with_boxes() -> Batch:
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (3, 93, 130), generator=generator, dtype=torch.uint8)
    corners = torch.rand(40, 2, generator=generator) * torch.tensor([70.0, 40.0])
    boxes = torch.cat((corners, corners + 16 + 30 * torch.rand(40, 2, generator=generator)), dim=1)
    nothing = Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    return Batch([image], [nothing], [Proposals(boxes, torch.zeros(40))], ["a"], [0], [96])


@pytest.mark.parametrize("head", HEADS)
def test_folded_statistics_give_the_same_boxes(head: str) -> None:
    detector, batch = make(head), picture_with_boxes()
    before = detector.detect(batch)[0]
    assert len(before) > 10
    detector.set_target_statistics(torch.zeros_like(detector.coder.mean), torch.ones_like(detector.coder.std))
    after = detector.detect(batch)[0]
    assert torch.equal(after.labels, before.labels)
    assert torch.equal(after.scores, before.scores)
    torch.testing.assert_close(after.boxes, before.boxes, atol=1e-3, rtol=1e-5)  # 0.001 pixels


@pytest.mark.parametrize("head", HEADS)
def test_folding_and_unfolding_statistics_restores_the_weights(head: str) -> None:
    detector = make(head)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    mean, std = detector.coder.mean.clone(), detector.coder.std.clone()
    detector.set_target_statistics(torch.zeros_like(mean), torch.ones_like(std))
    detector.set_target_statistics(mean, std)
    for name, value in detector.state_dict().items():
        torch.testing.assert_close(value, before[name], atol=1e-6, rtol=1e-5)


@pytest.fixture
def model() -> PortableModel:
    torch.manual_seed(0)
    return PortableModel(
        config={"head": {"kind": "rfcn"}, "weights": None},
        classes=("cat", "d\u00f6g"),
        preprocessing={"mean": [1.0]},
        provenance={"step": 3},
        weights={"a": torch.randn(3, 4), "b": torch.arange(3)},
    )


def test_round_trip_is_exact_and_reproducible(model: PortableModel, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_portable(tmp_path / name, model)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    found = read_portable(tmp_path / "one")
    assert (found.config, found.classes) == (model.config, model.classes)
    assert (found.preprocessing, found.provenance) == (model.preprocessing, model.provenance)
    assert all(torch.equal(found.weights[name], value) for name, value in model.weights.items())
    assert read_config(tmp_path / "one") == model.config


def test_every_changed_or_missing_byte_is_refused(model: PortableModel, tmp_path: Path) -> None:
    write_portable(tmp_path / "model", model)
    whole = (tmp_path / "model").read_bytes()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 0x04
        (tmp_path / "model").write_bytes(changed)
        try:
            found = read_portable(tmp_path / "model")
        except ValueError:
            continue
        assert whole[position : position + 1] == b" ", "only a change of the padding may stay unnoticed"
        assert found.config == model.config
    for length in range(0, len(whole), 7):
        (tmp_path / "model").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="damaged"):
            read_portable(tmp_path / "model")


def rewrite(path: Path, **changes: str | None) -> None:
    """Write the file again with other metadata and a correct checksum."""
    tensors, metadata = read_safetensors(path)
    metadata = {key: value for key, value in {**metadata, **changes}.items() if value is not None}
    metadata.pop("sha256", None)
    metadata["sha256"] = fingerprint(tensors, metadata)
    with open(path, "wb") as file:
        write_safetensors(file, tensors, metadata)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": "2"}, "has format version 2, newer than the 1"),
        ({"format_version": "2", "config": None, "extra": "x"}, "newer"),
        ({"format_version": "-1"}, "damaged"),
        ({"format": "pt"}, "of another program"),
        ({"format": None}, "of another program"),
        ({"classes": None}, "damaged"),
        ({"config": "[]"}, "damaged"),
        ({"config": "{"}, "damaged"),
    ],
)
def test_newer_foreign_and_damaged_files_are_distinguished(
    model: PortableModel, tmp_path: Path, changes: dict[str, str | None], message: str
) -> None:
    write_portable(tmp_path / "model", model)
    rewrite(tmp_path / "model", **changes)
    with pytest.raises(ValueError, match=message) as error:
        read_portable(tmp_path / "model")
    assert "\n" not in str(error.value)


def test_a_newer_file_with_unknown_content_is_reported_as_newer(model: PortableModel, tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "fast-rfcn", "format_version": "7"},
        "x": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]},
    }
    text = json.dumps(header).encode()
    (tmp_path / "model").write_bytes(len(text).to_bytes(8, "little") + text + b"\0")
    with pytest.raises(ValueError, match="newer"):
        read_portable(tmp_path / "model")


def test_an_interrupted_write_leaves_the_old_file(
    model: PortableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_portable(tmp_path / "model", model)
    before = (tmp_path / "model").read_bytes()

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(portable, "write_safetensors", full)
    with pytest.raises(OSError, match="No space left"):
        write_portable(tmp_path / "model", model)
    assert [item.name for item in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model").read_bytes() == before


def test_a_tensor_with_two_names_is_stored_once() -> None:
    detector = make("fast_rcnn")
    shared = shared_names(detector)
    assert shared
    assert all(name.startswith("head.tail.") and first.startswith("backbone.tail.") for name, first in shared.items())
    once = {name: value + 1 for name, value in detector.state_dict().items() if name not in shared}
    load_weights(detector, once, "here")
    assert all(torch.equal(value, once[shared.get(name, name)]) for name, value in detector.state_dict().items())
    del once[next(iter(shared.values()))]
    with pytest.raises(ValueError, match="2 missing"):
        load_weights(detector, once, "here")
