"""From a config to a dataset and its proposals: with `detector/build.py` the only readers of config classes."""

from __future__ import annotations

import logging
import re
from collections import Counter
from pathlib import Path

from torch import Tensor

from detector.configs import schema
from detector.configs.errors import ConfigError
from detector.datasets.augment import ProposalSource
from detector.datasets.class_names import one_sided
from detector.datasets.coco import COCODataset
from detector.datasets.coco_json import read_coco
from detector.datasets.folder import Folder
from detector.datasets.proposal_files import load_proposals, prepare_all, prepared
from detector.datasets.proposal_gaps import GappedProposals
from detector.datasets.proposal_grid import GridProposals, grid_boxes
from detector.datasets.readable import Gapped, require_readable
from detector.datasets.sample import Dataset
from detector.datasets.selective_search import Search, cached_search, selective_search
from detector.datasets.synthetic import SyntheticDataset
from detector.datasets.voc import VOCDataset

log = logging.getLogger("detector")


def build_dataset(config: schema.DatasetConfig, role: str, *, need_images: bool = True) -> Dataset:
    """The dataset of a role, train or test. Raises ValueError for data that is missing or faulty.

    Without `need_images` the pictures may be absent: result files are scored on annotations alone.
    """
    split, sibling = (config.train, config.test) if role == "train" else (config.test, config.train)
    match config:
        case schema.AutoDatasetConfig():
            folder = open_folder(config)
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
                    f"dataset.{role} is {split!r}; a split of the synthetic dataset is a number of images"
                )
            return SyntheticDataset(
                role, num_images=int(split), height=config.height, width=config.width, seed=config.seed
            )
    raise ConfigError(f"dataset.kind {config.kind!r} has no builder")


def _classes_of(path: Path) -> tuple[str, ...] | None:
    """The classes of a training file, which number those of the other; None where only the other is there."""
    return tuple(read_coco(path).categories.values()) if path.is_file() else None


def build_datasets(config: schema.DatasetConfig) -> tuple[Dataset, Dataset]:
    """The datasets of both roles, train and test, their pictures checked; a folder is opened once for both.

    Raises as `readable_dataset`. With dataset.on_unreadable=skip the training set keeps the places of pictures that
    cannot be read; its view takes another image.
    """
    if isinstance(config, schema.AutoDatasetConfig):
        folder = open_folder(config)
        train: Dataset = folder.train
        test: Dataset = folder.test
    else:
        train, test = build_dataset(config, "train"), build_dataset(config, "test")
        for line in one_sided(_objects(train), _objects(test)):
            log.warning("%s", line)
    return _readable(config, train, "train", keep_places=True), _readable(config, test, "test", keep_places=False)


def readable_dataset(config: schema.DatasetConfig, role: str) -> Dataset:
    """The dataset of a role, train or test, after the check of its pictures (dataset.check).

    Raises ValueError for data that is missing or faulty, and FaultyDataError for pictures that cannot be read; with
    dataset.on_unreadable=skip those are left out.
    """
    return _readable(config, build_dataset(config, role), role, keep_places=False)


def _readable(config: schema.DatasetConfig, dataset: Dataset, role: str, *, keep_places: bool) -> Dataset:
    if not isinstance(config, schema.FilesDatasetConfig) or config.check is schema.PictureCheck.none:
        return dataset
    return require_readable(
        dataset,
        decode=config.check is schema.PictureCheck.decode,
        keep_checks=config.keep_checks,
        skip=skips_unreadable(config),
        keep_places=keep_places,
        where=role,
    )


def skips_unreadable(config: schema.DatasetConfig) -> bool:
    """Whether another picture takes the place of one that cannot be read."""
    return isinstance(config, schema.FilesDatasetConfig) and config.on_unreadable is schema.OnUnreadable.skip


def _objects(dataset: Dataset) -> Counter[str]:
    """Objects of each class."""
    return Counter(dataset.classes[label - 1] for item in dataset.annotations for label in item.labels.tolist())


def open_folder(config: schema.AutoDatasetConfig, *, quiet: bool = False, mend: bool = False) -> Folder:
    """The folder of dataset=auto, both sides and its split; what was found is logged, unless `quiet`.

    With `mend` its faults are kept, not raised. Raises as `build_dataset`.
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
        mend=mend,
        keep_checks=config.keep_checks,
    )
    if quiet:
        return folder
    for line in folder.told:
        log.info("%s: %s", config.root, line)
    for line in folder.odd:
        log.warning("%s: %s", config.root, line)
    return folder


def build_proposals(config: schema.ProposalConfig, dataset: Dataset, role: str) -> ProposalSource | None:
    """The boxes that come with each image; None where a network proposes. None are asked for unreadable pictures."""
    if isinstance(dataset, Gapped):
        source = build_proposals(config, dataset.readable, role)
        return source and GappedProposals(source, dataset.readable.indices)
    top_k = config.top_k_train if role == "train" else config.top_k_test
    match config:
        case schema.GridProposalsConfig():
            grid = GridProposals(dataset, tuple(config.scales), tuple(config.aspects), config.overlap)
            _require_whole(grid, dataset, top_k, f"proposals.top_k_{role}")
            return grid
        case schema.FileProposalsConfig():
            path = Path(config.train if role == "train" else config.test)
            return prepare_all(
                load_proposals(path, dataset, convention=config.convention), top_k=top_k, min_size=config.min_size
            )
        case schema.SelectiveSearchConfig():
            found = cached_search(dataset, cache_path(config, dataset, role), _search(config), config.workers)
            return prepare_all(found, top_k=top_k, min_size=config.min_size)
        case schema.RPNConfig():
            return None
    raise ConfigError(f"proposals.kind {config.kind!r} has no builder")


def propose(config: schema.ProposalConfig, image: Tensor) -> Tensor | None:
    """Boxes for a picture [3, H, W] of no dataset; None where a network proposes."""
    match config:
        case schema.GridProposalsConfig():
            return grid_boxes(
                image.shape[1], image.shape[2], tuple(config.scales), tuple(config.aspects), config.overlap
            )
        case schema.SelectiveSearchConfig():
            return prepared(selective_search(image, _search(config)), top_k=config.top_k_test, min_size=config.min_size)
        case schema.RPNConfig():
            return None
    raise ConfigError(
        "proposals=file has no boxes for these pictures; choose proposals=selective_search or proposals=grid"
    )


def _require_whole(grid: GridProposals, dataset: Dataset, top_k: int, key: str) -> None:
    """A grid is not in order of merit: its first boxes alone would leave whole sizes out."""
    for index in {(item.height, item.width): index for index, item in enumerate(dataset.annotations)}.values():
        count, item = len(grid.boxes(index)), dataset.annotations[index]
        if count > top_k:
            raise ConfigError(
                f"{key} is {top_k}, but the grid has {count} boxes for an image of {item.width}x{item.height}; "
                "raise it, or make the grid coarser (proposals.scales, proposals.overlap)"
            )


def cache_path(config: schema.SelectiveSearchConfig, dataset: Dataset, role: str) -> Path:
    """Where the boxes of a split are kept: named after its first image and length, checked by its key."""
    first = re.sub(r"[^A-Za-z0-9_-]", "_", dataset.annotations[0].image_id) if dataset.annotations else "empty"
    return Path(config.cache) / f"selective_search_{config.mode}_{first}_{len(dataset.annotations)}.npz"


def _search(config: schema.SelectiveSearchConfig) -> Search:
    return Search(config.mode, config.resize_height)
