"""`detector download`: fetch Pascal VOC from its official addresses or a mirror, verify and unpack it."""

from __future__ import annotations

import logging
import shutil
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from detector.fetch import fetch, file_hash

log = logging.getLogger("detector")


@dataclass(frozen=True, slots=True)
class Archive:
    """A tar file that holds VOCdevkit/VOC<year>."""

    url: str
    filename: str
    md5: str
    year: str


def official_archives(years: Iterable[str]) -> list[Archive]:
    """Return the archives of the given years: 2007 (trainval and test), 2012 (trainval). torchvision has the checksums.

    Raises ValueError for another year.
    """
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    parts = {"2007": ("2007", "2007-test"), "2012": ("2012",)}
    archives = []
    for year in years:
        if year not in parts:
            raise ValueError(f"year={year}: expected one of {', '.join(parts)}, or several joined by commas")
        entries = [DATASET_YEAR_DICT[part] for part in parts[year]]
        archives += [Archive(item["url"], item["filename"], item["md5"], year) for item in entries]
    return archives


def download_voc(root: Path, years: Iterable[str], mirror: str | None = None) -> None:
    """Fetch and unpack each year into root/VOC<year>. An archive that is already in `root` is not fetched again.

    `mirror` is the address of a folder with the archives, in place of the official one. An interrupted download
    continues. Raises ValueError, in one line, for an address that does not answer or a wrong checksum.
    """
    root.mkdir(parents=True, exist_ok=True)
    for archive in official_archives(years):
        fetch_and_unpack(archive, root, mirror)


def fetch_and_unpack(archive: Archive, root: Path, mirror: str | None = None) -> None:
    """Fetch an archive, verify it, unpack it into root/VOC<year>, and remove it if it was fetched here."""
    done = root / f"VOC{archive.year}" / f".{archive.filename}.done"
    if done.is_file():
        log.info("%s is already unpacked", archive.filename)
        return
    path = root / archive.filename
    existed = path.is_file()
    if not existed:
        _fetch(archive, path, mirror)
    found = file_hash(path, "md5")
    if found != archive.md5:
        path.rename(path.with_name(f"{path.name}.wrong"))
        raise ValueError(
            f"{path}: expected the checksum (md5) {archive.md5}, got {found}; the file is now {path.name}.wrong: "
            "fetch it again, or try another mirror"
        )
    _unpack(path, root)
    done.touch()
    if not existed:
        path.unlink()
    log.info("%s is unpacked in %s", archive.filename, done.parent)


def _fetch(archive: Archive, path: Path, mirror: str | None) -> None:
    url = archive.url if mirror is None else f"{mirror.rstrip('/')}/{archive.filename}"
    log.info("fetching %s", url)
    try:
        fetch(url, path)
    except OSError as error:
        raise ValueError(
            f"{error}; without a network, or if the address has moved, give mirror=ADDRESS or put "
            f"{archive.filename} into {path.parent}, and run the command again"
        ) from error


def _unpack(path: Path, root: Path) -> None:
    """Unpack into a temporary folder in `root`, then move file by file, since the archives of 2007 share folders."""
    with tempfile.TemporaryDirectory(dir=root, prefix=".unpack_") as folder:
        try:
            with tarfile.open(path) as archive:
                archive.extractall(folder, filter="data")
        except (tarfile.TarError, EOFError) as error:
            raise ValueError(f"{path}: cannot unpack this archive ({error}); remove it and fetch it again") from error
        inner = Path(folder) / "VOCdevkit"
        if not inner.is_dir():
            raise ValueError(f"{path}: this archive has no folder VOCdevkit; use the official archive of Pascal VOC")
        for file in inner.rglob("*"):
            if file.is_file():
                target = root / file.relative_to(inner)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(file, target)
