"""Detections to score, from files of any supported format, and the dump that an evaluation writes.

`detections=` takes a run's folder or its detections.npz, a folder of VOC's comp4 files, or a COCO result JSON.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from detector.configs import schema
from detector.configs.errors import ConfigError
from detector.datasets.coco_json import read_coco
from detector.metrics.dump import Dump, read_dump
from detector.metrics.result_files import PREFIX, read_coco_results, read_voc_results
from detector.metrics.tables import DetectionTable, TruthTable
from detector.pipeline.resume import with_own_split

DUMP = "detections.npz"  # name of the dump in a run's folder


def make_dump(detections: DetectionTable, config: schema.Config, model: nn.Module) -> Dump:
    """Return the dump of detections, with the dataset, the settings and the model that they come from."""
    return Dump(detections, dataset_name(config), asdict(config.postprocess), weights_hash(model))


def read_detections(path: Path, truths: TruthTable, config: schema.Config) -> Dump:
    """Read the detections at `path`, with images and classes numbered as in `truths`.

    Raises ValueError if the file is missing or malformed, or has other images or classes.
    """
    if path.is_dir() and (path / DUMP).is_file():
        path = path / DUMP
    if path.is_dir():
        if not any(path.glob(f"{PREFIX}*.txt")) and (path / "detections").is_dir():
            path = path / "detections"
        return Dump(read_voc_results(path, truths.image_ids, truths.classes), dataset_name(config))
    if not path.exists():
        raise ValueError(
            f"detections={path}: no such file or folder; give a run's folder, a {DUMP}, a folder of {PREFIX}CLASS.txt "
            "or a COCO result .json"
        )
    if path.suffix == ".json":
        table = read_coco_results(path, truths.image_ids, truths.classes, category_ids(config.dataset, truths.classes))
        return Dump(table, dataset_name(config))
    dump = read_dump(path)
    try:
        return Dump(dump.detections.aligned(truths), dump.dataset, dump.postprocess, dump.model)
    except ValueError as error:
        raise ValueError(f"{path} (made on {dump.dataset}) does not fit {dataset_name(config)}: {error}") from error


def saved_config(path: Path) -> dict[str, Any] | None:
    """Read the config of the run that a dump belongs to, as plain values; None if there is none.

    The settings of that one run (output_dir, resume, ...) are None, so that the config can score the dump.
    """
    folder = path if path.is_dir() else path.parent
    file = folder / "config.yaml"
    if not file.is_file():
        return None
    try:
        plain = OmegaConf.to_container(OmegaConf.load(file))
    except Exception as error:  # YAML's errors share no base with OmegaConf's
        raise ConfigError(f"{file}: not a run's config: {str(error).splitlines()[0]}") from error
    if not isinstance(plain, dict):
        raise ConfigError(f"{file}: expected a run's config, got a {type(plain).__name__}")
    kept = with_own_split({str(key): value for key, value in plain.items()}, folder)
    return {**kept, "output_dir": None, "resume": None, "weights": None, "detections": None, "images": None}


def dataset_name(config: schema.Config) -> str:
    """Return format and test split, for example `voc 2007_test`; folder and split if the format was detected."""
    data = config.dataset
    kind = Path(data.root).resolve().name if isinstance(data, schema.AutoDatasetConfig) else data.kind
    split = "test" if config.dataset.test == "auto" else Path(config.dataset.test).name
    return f"{kind} {split}"


def category_ids(config: schema.DatasetConfig, classes: tuple[str, ...]) -> dict[int, str]:
    """Return COCO's category id -> class, from the annotation file; ids 1..K for other datasets."""
    match config:
        case schema.COCODatasetConfig():
            categories = read_coco(Path(config.test)).categories
            return {int(key): name for key, name in categories.items() if key.lstrip("-").isdecimal()}
    return dict(enumerate(classes, 1))


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 of names, shapes and values of a model's weights. It does not depend on the file format."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
