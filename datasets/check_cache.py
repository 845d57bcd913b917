"""Results of checks on files, kept between runs: a second start does not read every picture again.

They lie in the user's cache folder, never beside the data: one JSON file for each check and data folder. A result
counts as long as size and times of its file stay the same. A cache file that is damaged, or of another version, is
written anew.
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

T = TypeVar("T")
Stamp = list[int]  # size in bytes, times of the last change of content and of the file's entry in ns

log = logging.getLogger("detector")

SETTLED = 2.0  # seconds: a younger file may change again without a change of its times
WRONG = (TypeError, ValueError, KeyError, IndexError, AttributeError, RecursionError)  # what a damaged file leads to


def cache_folder() -> Path:
    """The folder of the cache files: `detector/checks` in $XDG_CACHE_HOME, or in ~/.cache. It may not exist yet."""
    stated = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path is invalid and ignored.
    base = Path(stated) if os.path.isabs(stated) else Path(os.path.expanduser("~")) / ".cache"
    return base / "detector" / "checks"


def cached_results(
    check: str,
    files: Sequence[Path],
    compute: Callable[[Sequence[Path]], Sequence[T]],
    *,
    version: str,
    to_json: Callable[[T], Any],
    from_json: Callable[[Any], T],
) -> list[T]:
    """`compute` of each file, in their order; it is called once, with the files whose result is not known.

    `check` names the cache file, `version` is stored in it: results of another version do not count. A result that
    `to_json` turns into None is not kept. A cache that cannot be written costs one line in the log.
    """
    if not files:
        return []
    names = [os.path.abspath(path) for path in files]
    stamps = [_stamp(name) for name in names]
    place = _place(check, names)
    known = _read(place, version)
    found: dict[int, T] = {}
    for index, (name, stamp) in enumerate(zip(names, stamps, strict=True)):
        entry = known.get(name)
        if stamp is None or not isinstance(entry, list) or entry[:-1] != stamp:
            continue
        try:
            found[index] = from_json(entry[-1])
        except WRONG:
            continue
    missing = [index for index in range(len(files)) if index not in found]
    if not missing:
        return [found[index] for index in range(len(files))]
    settled_before = (time.time() - SETTLED) * 1e9
    new: dict[str, Any] = {}
    for index, result in zip(missing, compute([files[index] for index in missing]), strict=True):
        found[index] = result
        stamp, value = stamps[index], to_json(result)
        if value is not None and stamp is not None and max(stamp[1:]) < settled_before:
            new[names[index]] = [*stamp, value]
    if new:
        _write(place, version, new)
    return [found[index] for index in range(len(files))]


def _stamp(name: str) -> Stamp | None:
    try:
        about = os.stat(name)
    except (OSError, ValueError):
        return None
    return [about.st_size, about.st_mtime_ns, about.st_ctime_ns]


def _place(check: str, names: Sequence[str]) -> Path:
    """The cache file for files of one data folder."""
    try:
        shared = os.path.commonpath({os.path.dirname(name) for name in names})
    except ValueError:  # several drives of Windows
        shared = ""
    return cache_folder() / f"{check}-{hashlib.sha256(os.fsencode(shared)).hexdigest()[:16]}.json"


def _read(place: Path, version: str) -> dict[str, Any]:
    try:
        content = json.loads(place.read_bytes())
        entries = content["files"] if content["version"] == version else {}
        return entries if isinstance(entries, dict) else {}
    except (OSError, *WRONG):
        return {}


def _write(place: Path, version: str, new: dict[str, Any]) -> None:
    """Adds results. Of two processes that write at once one loses its results, which costs no more than a check."""
    entries = {name: entry for name, entry in _read(place, version).items() if os.path.exists(name)} | new
    temporary = place.with_name(f".{place.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"version": version, "files": entries}), encoding="utf-8")
        os.replace(temporary, place)
    except (OSError, ValueError) as error:
        with suppress(OSError):
            temporary.unlink()
        log.info("the results of the check of %d files are not kept for the next run (%s)", len(new), error)
