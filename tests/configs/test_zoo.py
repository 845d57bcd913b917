"""The table of weights: valid entries, equal to torchvision's, and loading by name."""

import hashlib
import re
from pathlib import Path

import pytest
import torch
from torchvision import models

from detector import load_detector
from detector.build import build_detector, load_backbone_weights
from detector.configs import zoo
from detector.configs.compose import load_config
from detector.configs.errors import ConfigError
from detector.configs.groups import to_plain
from detector.configs.zoo import KINDS, zoo_entry, zoo_names
from detector.export.portable import PortableModel, write_portable

NARROW = ["dataset=synthetic", "proposals=grid", "backbone=resnet18_narrow", "backbone.width=0.125"]


def test_every_entry_is_complete() -> None:
    urls = {weight.url for name in models.list_models(module=models) for weight in models.get_model_weights(name)}
    names = [(name, kind) for kind in KINDS for name in zoo_names(kind)]
    assert names
    for name, kind in names:
        entry = zoo_entry(name, kind)
        assert entry is not None
        assert re.fullmatch("[0-9a-f]{8,64}", entry.sha256)
        if "download.pytorch.org" in entry.url:
            assert entry.url in urls
            assert entry.sha256 in entry.url


def test_a_name_of_another_kind_is_refused_with_its_key() -> None:
    with pytest.raises(ConfigError, match="weights=resnet50_v2: .* write backbone.weights=resnet50_v2"):
        zoo_entry("resnet50_v2", "model")
    assert zoo_entry("nothing", "model") is None


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table with a detector and a classifier in files, and an empty cache."""
    torch.manual_seed(0)
    config = load_config([*NARROW, "trainer.device=cpu"])
    weights = build_detector(config, 2).state_dict()
    write_portable(tmp_path / "d", PortableModel(to_plain(config), ("cat", "dog"), {}, {"step": 7}, weights))
    torch.save(models.resnet18(weights=None).state_dict(), tmp_path / "c")
    lines = [
        f"{name}: {{kind: {kind}, url: '{(tmp_path / name).as_uri()}', about: x, "
        f"sha256: '{hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}'}}"
        for name, kind in (("d", "model"), ("c", "classifier"))
    ]
    (tmp_path / "zoo.yaml").write_text("\n".join(lines))
    monkeypatch.setattr(zoo, "TABLE", tmp_path / "zoo.yaml")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path


def test_weights_can_be_given_by_name_and_are_cached(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(table / "hub" if (table / "hub").is_dir() else "/")
    assert load_detector("d", device="cpu").classes == ("cat", "dog")
    config = load_config(["dataset=synthetic", "proposals=grid", "backbone=resnet18", "backbone.weights=c"])
    backbone = build_detector(config, 2).backbone
    load_backbone_weights(config.backbone, backbone)
    (table / "d").unlink()
    (table / "c").unlink()
    monkeypatch.setenv("DETECTOR_OFFLINE", "1")
    load_detector("d", device="cpu")  # from the cache
    load_backbone_weights(config.backbone, backbone)
    assert len(list((table / "hub" / "checkpoints").iterdir())) == 2


def test_an_unknown_name_is_refused_with_the_known_ones(table: Path) -> None:
    config = load_config(["dataset=synthetic", "proposals=grid", "backbone=resnet18", "backbone.weights=e"])
    with pytest.raises(ValueError, match="no such file; give .* or one of the names c"):
        load_backbone_weights(config.backbone, build_detector(config, 2).backbone)
    with pytest.raises(ValueError, match="no such file"):
        load_detector("e")
