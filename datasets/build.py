"""Builds a dataset and its proposals from a config, so that the other files here need no config classes."""

from __future__ import annotations

import logging
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from detector.configs import schema
from detector.configs.errors import ConfigError
from detector.datasets.augment import ProposalSource
from detector.datasets.class_names import unshared_classes
from detector.datasets.coco import COCODataset
from detector.datasets.coco_json import read_coco
from detector.datasets.folder import Folder
from detector.datasets.partial_proposals import PartialProposals
from detector.datasets.proposal_files import filter_all_proposals, filter_proposals, load_proposals
from detector.datasets.proposal_grid import GridProposals, grid_boxes
from detector.datasets.readable import PartlyReadable, Subset, require_readable
from detector.datasets.sample import Dataset
from detector.datasets.selective_search import Search, cached_search, selective_search
from detector.datasets.synthetic import SyntheticDataset
from detector.datasets.voc import VOCDataset

log = logging.getLogger("detector")


def build_dataset(config: schema.DatasetConfig, role: str, *, need_images: bool = True, quiet: bool = False) -> Dataset:
    """Return the dataset of a role, train or test. Raises ValueError for missing or faulty data.

    Without `need_images`, the pictures may be missing: scoring a result file needs the annotations only. With `quiet`,
    the summary of a folder is not logged.
    """
    split, sibling = (config.train, config.test) if role == "train" else (config.test, config.train)
    match config:
        case schema.AutoDatasetConfig():
            folder = open_folder(config, quiet=quiet)
            return folder.train if role == "train" else folder.test
        case schema.VOCDatasetConfig():
            return VOCDataset(
                Path(config.root),
                split,
                classes=config.classes,
                box_base=config.box_base.value,
                sibling=sibling,
                need_images=need_images,
                strict=config.strict,
                bit_depth=config.bit_depth,
            )
        case schema.COCODatasetConfig():
            images = config.train_images if role == "train" else config.test_images
            classes = None if role == "train" else _classes_of(Path(sibling))
            return COCODataset(
                Path(split),
                Path(images),
                need_images=need_images,
                classes=classes,
                strict=config.strict,
                bit_depth=config.bit_depth,
            )
        case schema.SyntheticDatasetConfig():
            if not split.isdigit() or int(split) == 0:
                raise ConfigError(
                    f"dataset.{role} is {split!r}; expected a number of images for the synthetic dataset, such as 200"
                )
            return SyntheticDataset(
                role, num_images=int(split), height=config.height, width=config.width, seed=config.seed
            )
    raise ConfigError(f"dataset.kind {config.kind!r} has no builder")


def _classes_of(path: Path) -> tuple[str, ...] | None:
    """Return the classes of the training file, which set the labels of the test file too; None if it is missing."""
    return tuple(read_coco(path).categories.values()) if path.is_file() else None


def build_datasets(config: schema.DatasetConfig) -> tuple[Dataset, Dataset]:
    """Return the datasets of both roles, train and test, after the check of their pictures. Opens a folder only once.

    Raises the same errors as `readable_dataset`. With dataset.on_unreadable=skip, the training set keeps the indices of
    unreadable pictures, and `TrainingView` replaces them by other images.
    """
    if isinstance(config, schema.AutoDatasetConfig):
        folder = open_folder(config)
        train: Dataset = folder.train
        test: Dataset = folder.test
    else:
        train, test = build_dataset(config, "train"), build_dataset(config, "test")
        for line in unshared_classes(_objects(train), _objects(test)):
            log.warning("%s", line)
    return _readable(config, train, "train", keep_indices=True), _readable(config, test, "test", keep_indices=False)


def readable_dataset(config: schema.DatasetConfig, role: str) -> Dataset:
    """Return the dataset of a role, train or test, after the check of its pictures (dataset.check).

    Raises ValueError for missing or faulty data, and FaultyDataError for pictures that cannot be read; with
    dataset.on_unreadable=skip, these are left out.
    """
    return readable_part(config, build_dataset(config, role), role)


def readable_part(config: schema.DatasetConfig, dataset: Dataset, where: str) -> Dataset:
    """Return a dataset after the check of its pictures, without unreadable ones if dataset.on_unreadable=skip.

    Raises FaultyDataError for pictures that cannot be read.
    """
    return _readable(config, dataset, where, keep_indices=False)


def _readable(config: schema.DatasetConfig, dataset: Dataset, role: str, *, keep_indices: bool) -> Dataset:
    if not isinstance(config, schema.FilesDatasetConfig) or config.check is schema.PictureCheck.none:
        return dataset
    return require_readable(
        dataset,
        decode=config.check is schema.PictureCheck.decode,
        keep_checks=config.keep_checks,
        skip=skips_unreadable(config),
        keep_indices=keep_indices,
        where=role,
    )


def with_bit_depth(config: schema.DatasetConfig, dataset: Dataset) -> schema.DatasetConfig:
    """Return the config with the bit depth of the dataset's pictures, so that a model reads other pictures the same."""
    whole = dataset.dataset if isinstance(dataset, (PartlyReadable, Subset)) else dataset
    found: int | None = getattr(whole, "bit_depth", None)
    return replace(config, bit_depth=found) if isinstance(config, schema.FilesDatasetConfig) and found else config


def skips_unreadable(config: schema.DatasetConfig) -> bool:
    """Return True if another picture replaces one that cannot be read."""
    return isinstance(config, schema.FilesDatasetConfig) and config.on_unreadable is schema.OnUnreadable.skip


def _objects(dataset: Dataset) -> Counter[str]:
    """Return the number of objects of each class."""
    return Counter(dataset.classes[label - 1] for item in dataset.annotations for label in item.labels.tolist())


def open_folder(config: schema.AutoDatasetConfig, *, quiet: bool = False, leave_out_faulty: bool = False) -> Folder:
    """Open the folder of dataset=auto with its train and test splits. Log a summary of it, unless `quiet`.

    With `leave_out_faulty`, faults are collected and not raised. Raises the same errors as `build_dataset`.
    """
    folder = Folder(
        Path(config.root),
        also=[Path(path).expanduser() for path in config.also],
        format_=config.format.value,
        train=config.train,
        test=config.test,
        classes=config.classes,
        rename=config.rename,
        columns=config.columns,
        box_base=config.box_base.value,
        val_fraction=config.val_fraction,
        split_file=Path(config.split_file) if config.split_file else None,
        strict=config.strict,
        bit_depth=config.bit_depth,
        leave_out_faulty=leave_out_faulty,
        keep_checks=config.keep_checks,
    )
    if quiet:
        return folder
    for line in folder.summary:
        log.info("%s: %s", config.root, line)
    for line in folder.odd:
        log.warning("%s: %s", config.root, line)
    return folder


def build_proposals(config: schema.ProposalConfig, dataset: Dataset, role: str) -> ProposalSource | None:
    """Return the proposals of each image; None with an RPN. Unreadable pictures get no proposals."""
    if isinstance(dataset, PartlyReadable):
        source = build_proposals(config, dataset.readable, role)
        return source and PartialProposals(source, dataset.readable.indices)
    top_k = config.top_k_train if role == "train" else config.top_k_test
    match config:
        case schema.GridProposalsConfig():
            grid = GridProposals(dataset, tuple(config.scales), tuple(config.aspects), config.overlap)
            _require_whole(grid, dataset, top_k, f"proposals.top_k_{role}")
            return grid
        case schema.FileProposalsConfig():
            path = Path(config.train if role == "train" else config.test)
            return filter_all_proposals(
                load_proposals(path, dataset, convention=config.convention), top_k=top_k, min_size=config.min_size
            )
        case schema.SelectiveSearchConfig():
            found = cached_search(dataset, cache_path(config, dataset, role), _search(config), config.workers)
            return filter_all_proposals(found, top_k=top_k, min_size=config.min_size)
        case schema.RPNConfig():
            return None
    raise ConfigError(f"proposals.kind {config.kind!r} has no builder")


def propose(config: schema.ProposalConfig, image: Tensor) -> Tensor | None:
    """Return proposals for a picture [3, H, W] outside of a dataset; None with an RPN."""
    match config:
        case schema.GridProposalsConfig():
            return grid_boxes(
                image.shape[1], image.shape[2], tuple(config.scales), tuple(config.aspects), config.overlap
            )
        case schema.SelectiveSearchConfig():
            return filter_proposals(
                selective_search(image, _search(config)), top_k=config.top_k_test, min_size=config.min_size
            )
        case schema.RPNConfig():
            return None
    raise ConfigError(
        "proposals=file has no boxes for these pictures; choose proposals=selective_search or proposals=grid"
    )


def _require_whole(grid: GridProposals, dataset: Dataset, top_k: int, key: str) -> None:
    """Raise ConfigError if `top_k` is below the boxes of a grid. Its boxes are not ranked, so none can be dropped."""
    for index in {(item.height, item.width): index for index, item in enumerate(dataset.annotations)}.values():
        count, item = len(grid.boxes(index)), dataset.annotations[index]
        if count > top_k:
            raise ConfigError(
                f"{key} is {top_k}, but the grid has {count} boxes for an image of {item.width}x{item.height}; "
                "raise it, or make the grid coarser (proposals.scales, proposals.overlap)"
            )


def cache_path(config: schema.SelectiveSearchConfig, dataset: Dataset, role: str) -> Path:
    """Return the file for the boxes of a split, named after its first image and length. Its content has a key."""
    first = re.sub(r"[^A-Za-z0-9_-]", "_", dataset.annotations[0].image_id) if dataset.annotations else "empty"
    return Path(config.cache) / f"selective_search_{config.mode}_{first}_{len(dataset.annotations)}.npz"


def _search(config: schema.SelectiveSearchConfig) -> Search:
    return Search(config.mode, config.resize_height)
