"""A cache of check results, so that a second start does not read every picture again.

The cache is in the user's cache folder, never beside the data. It has one JSON file for each check and data folder. A
result is valid while size and times of its file stay the same. A cache file that is damaged, or of another version, is
replaced.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from detector.datasets.tar_shards import File, is_stored

T = TypeVar("T")
Stamp = list[int]  # st_size in bytes, st_mtime and st_ctime in ns

log = logging.getLogger("detector")

MIN_AGE_S = 2.0  # seconds; a younger file may change again without a change of its times
DAMAGED = (TypeError, ValueError, KeyError, IndexError, AttributeError, RecursionError)  # raised by a damaged file


def cache_folder() -> Path:
    """Return the folder of the cache files: `detector/checks` in $XDG_CACHE_HOME or ~/.cache. It may not exist yet."""
    stated = os.environ.get("XDG_CACHE_HOME", "")
    # By the XDG specification, a relative path is invalid and ignored.
    base = Path(stated) if os.path.isabs(stated) else Path(os.path.expanduser("~")) / ".cache"
    return base / "detector" / "checks"


def cached_results(
    check: str,
    files: Sequence[File],
    compute: Callable[[Sequence[File]], Sequence[T]],
    *,
    version: str,
    to_json: Callable[[T], Any],
    from_json: Callable[[Any], T],
) -> list[T]:
    """Return the result of `compute` for each file, in order. It is called once, with the files not in the cache.

    `check` is part of the cache file's name. `version` is stored in it; results of another version are ignored. A
    result that `to_json` turns into None is not stored. If the cache cannot be written, one line is logged.
    """
    if not files:
        return []
    names = [os.path.abspath(str(path)) for path in files]
    stamps = [_stamp(path) for path in files]
    path = _cache_file(check, names)
    known = _read(path, version)
    found: dict[int, T] = {}
    for index, (name, stamp) in enumerate(zip(names, stamps, strict=True)):
        entry = known.get(name)
        if stamp is None or not isinstance(entry, list) or entry[:-1] != stamp:
            continue
        try:
            found[index] = from_json(entry[-1])
        except DAMAGED:
            continue
    missing = [index for index in range(len(files)) if index not in found]
    if not missing:
        return [found[index] for index in range(len(files))]
    settled_before = (time.time() - MIN_AGE_S) * 1e9
    new: dict[str, Any] = {}
    for index, result in zip(missing, compute([files[index] for index in missing]), strict=True):
        found[index] = result
        stamp, value = stamps[index], to_json(result)
        if value is not None and stamp is not None and max(stamp[1:]) < settled_before:
            new[names[index]] = [*stamp, value]
    if new:
        _write(path, version, new)
    return [found[index] for index in range(len(files))]


def _stamp(path: File) -> Stamp | None:
    try:
        about = path.stat()
    except (OSError, ValueError):
        return None
    return [about.st_size, about.st_mtime_ns, about.st_ctime_ns]


def _cache_file(check: str, names: Sequence[str]) -> Path:
    """Return the cache file for the files of one data folder."""
    try:
        shared = os.path.commonpath({os.path.dirname(name) for name in names})
    except ValueError:  # files on several Windows drives
        shared = ""
    return cache_folder() / f"{check}-{hashlib.sha256(os.fsencode(shared)).hexdigest()[:16]}.json"


def _read(path: Path, version: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        entries = content["files"] if content["version"] == version else {}
        return entries if isinstance(entries, dict) else {}
    except (OSError, *DAMAGED):
        return {}


def _write(path: Path, version: str, new: dict[str, Any]) -> None:
    """Add results to a cache file. If two processes write at once, one loses its results and checks again next time."""
    entries = {name: entry for name, entry in _read(path, version).items() if is_stored(name)} | new
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"version": version, "files": entries}), encoding="utf-8")
        os.replace(temporary, path)
    except (OSError, ValueError) as error:
        with suppress(OSError):
            temporary.unlink()
        log.info("the check results of %d files cannot be stored for the next run (%s)", len(new), error)
