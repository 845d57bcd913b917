"""Datasets and proposals built from config classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from detector.configs import schema
from detector.configs.errors import ConfigError
from detector.datasets.build import build_dataset, build_proposals, propose, with_bit_depth
from detector.datasets.folder import FolderDataset
from detector.datasets.proposal_files import from_boxes, save_proposals
from detector.datasets.readable import Subset

SYNTHETIC = schema.SyntheticDatasetConfig(train="3", test="2", height=48, width=64)
COARSE = schema.GridProposalsConfig(scales=[0.4], aspects=[1.0], overlap=0.5)


def test_both_voc_splits_share_their_classes(voc: Any) -> None:
    voc.add("train", "a", [("amoeba", (1, 1, 9, 9))])
    voc.add("test", "b", [("cell", (1, 1, 9, 9))])
    config = schema.VOCDatasetConfig(root=str(voc.root), train="train", test="test")
    train, test = build_dataset(config, "train"), build_dataset(config, "test")
    assert train.classes == test.classes == ("amoeba", "cell")
    assert (train.annotations[0].image_id, test.annotations[0].image_id) == ("a", "b")


def test_synthetic_splits_are_given_as_counts() -> None:
    assert [len(build_dataset(SYNTHETIC, role).annotations) for role in ("train", "test")] == [3, 2]
    with pytest.raises(ConfigError, match=r"dataset.test is 'many'"):
        build_dataset(schema.SyntheticDatasetConfig(test="many"), "test")


def test_the_bit_depth_of_a_dataset_goes_into_its_settings() -> None:
    config = schema.AutoDatasetConfig(root="photos")
    deep, shallow = (FolderDataset(("a",), [], [], bit_depth) for bit_depth in (12, None))
    assert with_bit_depth(config, deep).bit_depth == 12
    assert with_bit_depth(config, Subset(deep, [], ("a",), [])).bit_depth == 12
    assert with_bit_depth(config, shallow) == config
    assert with_bit_depth(SYNTHETIC, build_dataset(SYNTHETIC, "train")) == SYNTHETIC


def test_the_grid_of_a_dataset_equals_the_grid_of_its_picture() -> None:
    dataset = build_dataset(SYNTHETIC, "train")
    source = build_proposals(COARSE, dataset, "train")
    assert source is not None
    given = propose(COARSE, dataset.image(0))
    assert given is not None
    assert torch.equal(source.boxes(0), given)
    short = schema.GridProposalsConfig(scales=[0.4], aspects=[1.0], overlap=0.5, top_k_test=3)
    with pytest.raises(ConfigError, match=r"proposals.top_k_test is 3, but the grid has \d+ boxes for .* 64x48"):
        build_proposals(short, dataset, "test")


def test_file_proposals_are_limited_to_top_k(tmp_path: Path) -> None:
    dataset = build_dataset(SYNTHETIC, "test")
    ids = [item.image_id for item in dataset.annotations]
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 1, 9], [2, 2, 9, 9]])
    save_proposals(tmp_path / "x.npz", from_boxes(ids, [boxes, boxes]))
    config = schema.FileProposalsConfig(train="none", test=str(tmp_path / "x.npz"), top_k_test=2)
    source = build_proposals(config, dataset, "test")
    assert source is not None
    assert source.boxes(1).tolist() == [[0, 0, 9, 9], [2, 2, 9, 9]]
    with pytest.raises(ConfigError, match="proposals=file has no boxes for these pictures"):
        propose(config, dataset.image(0))


def test_with_an_rpn_no_proposals_are_built() -> None:
    dataset = build_dataset(SYNTHETIC, "test")
    assert build_proposals(schema.RPNConfig(), dataset, "test") is None
    assert propose(schema.RPNConfig(), dataset.image(0)) is None
