"""A folder for the readers: lists all files once, and finds the picture that an annotation names.

Tar shards are like folders: the member a.jpg of train-0.tar is the file train-0.tar/a.jpg.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from detector.datasets.faults import Fault, raise_faults
from detector.datasets.images import SUFFIXES
from detector.datasets.tar_shards import File, TarMember, index_shard

NO_DATA = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")  # folders of systems
ARCHIVES = (".zip", ".gz", ".tgz", ".xz", ".bz2", ".7z", ".rar")
OTHER_PICTURES = (".heic", ".heif", ".avif", ".gif", ".jp2", ".jxl", ".svg", ".dng", ".cr2", ".nef", ".arw")
SPLITS = {
    "train": "train", "training": "train", "trainval": "trainval", "test": "test", "testing": "test",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
}  # fmt: skip


class Tree:
    """The files below a folder, as relative paths with / on every system. Hidden files are left out.

    Shards are read only if there are no pictures outside of them: an archive often stays beside its unpacked pictures.
    Their files come after the others, in the order of the shards' names and then in that of the shard.
    """

    def __init__(self, root: Path, setting: str = "dataset.root") -> None:
        """Read the names of the files below `root`, which `setting` gives.

        Raises ValueError if `root` is not a folder, has no pictures below it, or has shards that are damaged.
        """
        self.setting = f"{setting}={root}"
        if not root.is_dir():
            what = "is a file" if root.exists() else "does not exist"
            packed = "; unpack it" if root.name.lower().endswith(ARCHIVES) else ""
            raise ValueError(f"{self.setting}: {what}; expected a folder of pictures and annotations{packed}")
        self.root = root
        self.files = sorted(_walk(str(root), "", set()))
        self._members: dict[str, TarMember] = {}
        if not any(path.lower().endswith(SUFFIXES) for path in self.files):
            self._members = _members(root, self.files, self.setting)
            self.files += self._members
        self.shards = len({member.shard for member in self._members.values()})
        self._by_suffix: dict[str, list[str]] = defaultdict(list)
        for path in self.files:
            self._by_suffix[PurePosixPath(path).suffix.lower()].append(path)
        self.pictures = sorted(path for suffix in SUFFIXES for path in self._by_suffix.get(suffix, ()))
        if not self.pictures:
            raise ValueError(
                f"{self.setting}: no pictures ({', '.join(SUFFIXES)}) in it, nor in .tar files in it; expected a "
                f"folder of pictures and annotations{self._remedy()}"
            )
        self._known = set(self.files)
        self._with_pictures = {
            path[: -len(self._members[path].name)] for path in self.pictures if path in self._members
        }
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for path in self.pictures:
            name = plain_name(path.rpartition("/")[2])
            self._by_name[name].append(path)
            self._by_stem[name.rpartition(".")[0]].append(path)
        self._of_other_kind = {plain_name(PurePosixPath(path).stem): path for path in self.having(*OTHER_PICTURES)}

    def having(self, *suffixes: str) -> list[str]:
        """Return the files with one of these suffixes."""
        return [path for suffix in suffixes for path in self._by_suffix.get(suffix, ())]

    def blank(self, *suffixes: str) -> list[str]:
        """Return the files with one of these suffixes that are empty, begin with zeros only, or cannot be read."""
        return [path for path in self.having(*suffixes) if not self.head(path).strip(b"\0 \t\r\n")]

    def full(self, path: str) -> File:
        """Return a file of the tree."""
        return self._members.get(path) or self.root / path

    def head(self, path: str, size: int = 4096) -> bytes:
        """Return the first bytes of a file; none if it cannot be read."""
        try:
            with self.full(path).open("rb") as file:
                return file.read(size)
        except OSError:
            return b""

    def tail(self, path: str, size: int = 4096) -> bytes:
        """Return the last bytes of a file; none if it cannot be read."""
        try:
            with self.full(path).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - size))
                return file.read(size)
        except OSError:
            return b""

    def picture_named(
        self, name: str, near: str, split: frozenset[str] = frozenset(), *, is_pair: bool = False
    ) -> str | None:
        """Return the picture that the file `near` calls `name`; None if there is none.

        `name` may be without folders and suffix. If several pictures match, prefer those of `split`, then those whose
        folders agree best. With `is_pair`, `near` annotates one picture, so both are in the same shard.

        Raises ValueError if several pictures match equally well.
        """
        name = name.replace("\\", "/").strip()
        for folder in (near.rpartition("/")[0], ""):
            exact = os.path.normpath(f"{folder}/{name}" if folder else name).replace("\\", "/")
            if exact in self._known:
                return exact
        base = plain_name(name.rpartition("/")[2])
        found: Sequence[str] = self._by_name.get(base) or (
            [] if base.endswith(SUFFIXES) else self._by_stem.get(base, [])
        )
        found = self._partners(found, near) if is_pair else found
        if not found:
            # A web address: https://x.org/my%20cat.jpg?size=2
            path = unquote(re.split(r"[?#]", name)[0] if "://" in name else name)
            return self.picture_named(path, near, split, is_pair=is_pair) if path != name else None
        return self._nearest([path for path in found if split and split_of(path) == split] or found, name, near)

    def picture_with_stem(self, path: str) -> str | None:
        """Return the nearest picture with the name of the file `path`, except for the suffix; None if there is none.

        Raises ValueError if several pictures match equally well.
        """
        stem = path.rpartition("/")[2].rpartition(".")[0]
        return self._nearest(self._partners(self._with_stem(stem), path), stem, path)

    def matches_picture(self, path: str) -> bool:
        """Return True if a picture has the name of this file, except for the suffix."""
        return bool(self._with_stem(PurePosixPath(path).stem))

    def _with_stem(self, stem: str) -> Sequence[str]:
        """Return the pictures called `stem`, without suffix or with it: a.txt and a.jpg.txt belong to a.jpg."""
        return self._by_stem.get(plain_name(stem)) or self._by_name.get(plain_name(stem), [])

    def of_other_kind(self, name: str) -> str:
        """Return a remark if a picture of this name exists in a format that is not read; empty if there is none."""
        path = self._of_other_kind.get(plain_name(PurePosixPath(name.replace("\\", "/")).stem))
        return "" if path is None else f" ({path} is there, but this format is not read; convert it to .jpg or .png)"

    def _remedy(self) -> str:
        """Return the end of the message about a folder without pictures."""
        others, archives = self.having(*OTHER_PICTURES), self.having(*ARCHIVES)
        if others:
            return f"; convert the {len(others)} pictures like {others[0]} to .jpg or .png"
        if any(b'"imageData"' in self.head(path) + self.tail(path) for path in self.having(".json")[:1]):
            return "; LabelMe's files contain the pictures: save these beside them"
        return f"; unpack {archives[0]}" if archives else ""

    def _nearest(self, found: Sequence[str], name: str, near: str) -> str | None:
        if len(found) < 2:
            return found[0] if found else None
        ranked = sorted(((_nearness(path, name, near), path) for path in found), reverse=True)
        if ranked[0][0] == ranked[1][0]:
            raise ValueError(
                f"{self.full(near)}: {name!r} may mean {ranked[1][1]} or {ranked[0][1]}; give the pictures different "
                "names"
            )
        return ranked[0][1]

    def _partners(self, found: Sequence[str], near: str) -> Sequence[str]:
        """Return the pictures that the annotation of one picture may mean: those of its shard, if that holds pictures.

        Names may start again in each shard.
        """
        member = self._members.get(near)
        shard = "" if member is None else near[: -len(member.name)]
        return [path for path in found if path.startswith(shard)] if shard in self._with_pictures else found


def _members(root: Path, files: Iterable[str], setting: str) -> dict[str, TarMember]:
    """Return the files inside the shards, by their path in the tree. Raises FaultyDataError for damaged shards."""
    found: dict[str, TarMember] = {}
    faults: list[Fault] = []
    for path in files:
        if path.lower().endswith(".tar"):
            found |= {f"{path}/{member.name}": member for member in index_shard(root / path, faults)}
    raise_faults(setting, faults)
    return found


def plain_name(name: str) -> str:
    """Return a name in small letters, with composed accents: macOS stores letter and accent separately."""
    return unicodedata.normalize("NFC", name).lower()


def _nearness(path: str, name: str, near: str) -> tuple[int, int, int, int]:
    """Return a sort key: folders in common with the name, then with the annotation, then same spelling and suffix."""
    folders, named, around = (PurePosixPath(item).parts[:-1] for item in (path, name, near))
    # images/train/a.jpg belongs to labels/train/a.txt, so folders after the different one count too.
    return (
        agreeing(reversed(folders), reversed(named)),
        agreeing(folders, around) + agreeing(reversed(folders), reversed(around)),
        path.rpartition("/")[2].startswith(name.rpartition("/")[2]),
        -SUFFIXES.index(PurePosixPath(path).suffix.lower()),
    )


def agreeing(a: Iterable[str], b: Iterable[str]) -> int:
    """Return the number of equal items before the first difference."""
    count = 0
    for one, other in zip(a, b, strict=False):
        if one != other:
            break
        count += 1
    return count


def _walk(folder: str, prefix: str, seen: set[str]) -> Iterator[str]:
    """Yield the files below a folder. Raises ValueError for a folder that cannot be listed.

    `seen` are the folders already listed, since links may lead to them again.
    """
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"{folder}: this folder cannot be listed ({reason}); change its permissions") from error
    for entry in entries:
        if entry.name.startswith(".") or entry.name in NO_DATA:
            continue
        if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
            yield from _walk(entry.path, f"{prefix}{entry.name}/", seen)
        elif _is_file(entry):
            yield f"{prefix}{entry.name}"


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Return True for files and broken links, and False for pipes and devices, from which reading may never end."""
    if entry.is_symlink():
        return os.path.isfile(entry.path) or not os.path.exists(entry.path)
    return entry.is_file()


def split_of(path: str) -> frozenset[str]:
    """Return the split in the folder names of a relative path, as a whole name or as a word of it; empty if none."""
    parts = PurePosixPath(path).parts
    for folder in reversed(parts[:-1]):
        if folder.lower() in SPLITS:
            return frozenset({SPLITS[folder.lower()]})
    for folder in reversed(parts[:-1]):
        words = [SPLITS[word] for word in _words(folder) if word in SPLITS]
        if len(set(words)) == 1:
            return frozenset(words)
    return frozenset()


def split_of_list(path: str) -> frozenset[str]:
    """Return the split of an annotation file: instances_train2017.json, valid_labels.csv, train/x.json."""
    words = {SPLITS[word] for word in _words(PurePosixPath(path).stem) if word in SPLITS}
    return frozenset(words) if len(words) == 1 else split_of(path)


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z]+", name.lower()) if word]
