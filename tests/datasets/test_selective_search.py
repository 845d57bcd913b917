"""Selective Search: repeatable boxes, cached on disk, resumed after an interruption, and never stale."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from detector.datasets import selective_search as module
from detector.datasets.selective_search import Search, cached_search, selective_search
from detector.datasets.synthetic import SyntheticDataset

FAST = Search("fast", None)


@pytest.fixture
def tiny() -> SyntheticDataset:
    pytest.importorskip("cv2", reason="needs the extra `proposals`")
    return SyntheticDataset("train", num_images=2, height=48, width=64, seed=1)


def test_boxes_are_inside_and_repeatable(tiny: SyntheticDataset) -> None:
    first = selective_search(tiny.image(0), FAST)
    selective_search(tiny.image(1), FAST)
    assert torch.equal(selective_search(tiny.image(0), FAST), first), "independent of other searches in between"
    assert len(first) > 3
    assert (first >= 0).all()
    assert (first[:, 2] <= 64).all()
    assert (first[:, 3] <= 48).all()
    assert (first[:, 2:] > first[:, :2]).all()


def test_a_plain_object_is_found() -> None:
    pytest.importorskip("cv2", reason="needs the extra `proposals`")
    image = torch.full((3, 60, 80), 40, dtype=torch.uint8)
    image[0, 20:40, 30:60] = 220
    boxes = selective_search(image, FAST)
    assert ((boxes - torch.tensor([30.0, 20, 60, 40])).abs().amax(1) <= 1).any()
    resized = selective_search(image, Search("fast", 120))
    assert ((resized - torch.tensor([30.0, 20, 60, 40])).abs().amax(1) <= 1.5).any(), "in the pixels of the original"


def test_a_cached_search_is_not_repeated(
    tiny: SyntheticDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cache" / "boxes.npz"
    first = cached_search(tiny, path, FAST, 1)
    assert first.image_ids == ("train_00000", "train_00001")
    assert sorted(item.name for item in path.parent.iterdir()) == ["boxes.json", "boxes.npz"]
    monkeypatch.setattr(module, "selective_search", refuse)
    again = cached_search(tiny, path, FAST, 1)
    assert torch.equal(again.flat, first.flat)


def test_an_interrupted_search_is_resumed(
    tiny: SyntheticDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "boxes.npz"
    whole = cached_search(tiny, tmp_path / "whole.npz", FAST, 1)
    searched = []

    def stop_at_the_second(image: Tensor, search: Search) -> Tensor:
        searched.append(1)
        if len(searched) == 2:
            raise KeyboardInterrupt
        return selective_search(image, search)

    monkeypatch.setattr(module, "selective_search", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        cached_search(tiny, path, FAST, 1)
    assert not path.exists()
    resumed = cached_search(tiny, path, FAST, 1)
    assert len(searched) == 3, "the first image is not searched again"
    assert torch.equal(resumed.flat, whole.flat)


@pytest.mark.parametrize("change", ["mode", "images", "damage"])
def test_a_stale_cache_is_rebuilt(
    tiny: SyntheticDataset, tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "boxes.npz"
    cached_search(tiny, path, FAST, 1)
    if change == "damage":
        path.write_bytes(path.read_bytes()[:50])
    other = SyntheticDataset("test", num_images=2, height=48, width=64, seed=1) if change == "images" else tiny
    with caplog.at_level(logging.INFO, "detector"):
        found = cached_search(other, path, Search("quality", 24) if change == "mode" else FAST, 1)
    assert "computing it again" in caplog.text
    assert found.image_ids == tuple(item.image_id for item in other.annotations)


def test_the_number_of_workers_changes_no_box(tiny: SyntheticDataset, tmp_path: Path) -> None:
    one = cached_search(tiny, tmp_path / "one.npz", FAST, 1)
    two = cached_search(tiny, tmp_path / "two.npz", FAST, 2)
    assert torch.equal(one.flat, two.flat)


@pytest.mark.slow
def test_a_killed_worker_ends_the_search(tiny: SyntheticDataset, tmp_path: Path) -> None:
    deadly: Any = SimpleNamespace(annotations=tiny.annotations, image=os._exit)
    with pytest.raises(ChildProcessError, match=r"was killed.*lower proposals\.workers"):
        cached_search(deadly, tmp_path / "x.npz", FAST, 2)
    assert multiprocessing.active_children() == []


def _unreadable(index: int) -> None:
    raise ValueError(f"image {index} is not a picture")


@pytest.mark.slow
def test_an_error_in_a_worker_ends_the_search(tiny: SyntheticDataset, tmp_path: Path) -> None:
    unreadable: Any = SimpleNamespace(annotations=tiny.annotations, image=_unreadable)
    with pytest.raises(ValueError, match="a picture"):
        cached_search(unreadable, tmp_path / "x.npz", FAST, 2)
    assert multiprocessing.active_children() == []


def test_ground_truth_is_not_used(tiny: SyntheticDataset, tmp_path: Path) -> None:
    blind: Any = SimpleNamespace(
        annotations=[SimpleNamespace(image_id=a.image_id, width=64, height=48) for a in tiny.annotations],
        image=tiny.image,
    )
    assert len(cached_search(blind, tmp_path / "x.npz", FAST, 1).flat)


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for stub in (None, SimpleNamespace()):  # not installed; installed without the contrib modules
        monkeypatch.setitem(sys.modules, "cv2", stub)
        with pytest.raises(ValueError, match=r"pip install 'fast-rfcn\[proposals\]'"):
            selective_search(torch.zeros(3, 8, 8, dtype=torch.uint8), FAST)


def refuse(image: Tensor, search: Search) -> Tensor:
    raise AssertionError(f"searched an image {np.shape(image)} again")
