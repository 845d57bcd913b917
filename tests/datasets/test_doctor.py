"""The doctor lists every fault, and writes an image list without them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from detector.datasets.doctor import check, check_voc, write_clean_list
from detector.datasets.voc import VOCDataset

BOX = (1, 1, 20, 15)


def test_every_fault_is_listed_and_the_clean_list_has_none(voc: Any) -> None:
    for number in range(14):
        box = (9, 9, 2, 2) if number % 2 else BOX
        voc.add("train", f"i{number}", [("cell", box), ("cell", (5, 5, 90, 9))] if number == 2 else [("cell", box)])
    faults = check_voc(voc.root, "train", classes=None)
    assert [fault.image_id for fault in faults] == ["i1", "i2", "i3", "i5", "i7", "i9", "i11", "i13"]
    path = write_clean_list(voc.root, "train", faults, "train_clean")
    assert path.read_text().split() == ["i0", "i4", "i6", "i8", "i10", "i12"]
    assert check_voc(voc.root, "train_clean", classes=None) == []
    with pytest.raises(ValueError, match="exists already"):
        write_clean_list(voc.root, "train", faults, "train_clean")
    with pytest.raises(ValueError, match="is a union"):
        write_clean_list(voc.root, "train+test", faults, "new")


def test_images_and_proposals_are_checked(voc: Any) -> None:
    for name in ("whole", "broken", "other_size"):
        voc.add("train", name, [("cell", BOX)], image_size=(30, 40) if name == "other_size" else (40, 30))
    path = voc.folder / "JPEGImages/broken.png"
    path.write_bytes(path.read_bytes()[:60])
    dataset = VOCDataset(voc.root, "train", classes=None)
    assert check(dataset, None, open_images=False) == []
    assert [fault.image_id for fault in check(dataset, None, open_images=True)] == ["broken", "other_size"]
    boxes = [torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([[0.0, 0, 99, 9]]), torch.zeros(0, 4)]
    faults = check(dataset, SimpleNamespace(boxes=boxes.__getitem__), open_images=False)
    assert [fault.message for fault in faults] == [
        "image broken (40x30): 1 of 1 proposals are inverted or outside",
        "image other_size (40x30): no proposals",
    ]
