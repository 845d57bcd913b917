"""Reads files inside tar shards in any order: the members stay in the shard, and are found by their offset.

A shard is an uncompressed tar file, as the WebDataset format names it. Its index comes from one pass over the headers.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

from detector.datasets.faults import Fault

BLOCK = 512  # bytes; a tar file consists of such blocks, and ends with blocks of zeros
UNREADABLE = (tarfile.TarError, OSError, ValueError, OverflowError)  # raised for damaged tar files


class Stamp(NamedTuple):
    """Size and times of a member, under the names of `os.stat_result`. The times are those of its shard."""

    st_size: int
    st_mtime_ns: int
    st_ctime_ns: int


@dataclass(frozen=True, slots=True)
class TarMember:
    """A file inside a shard. It has the methods of `Path` that readers use."""

    shard: Path
    name: str  # with /
    offset: int  # of its first byte in the shard
    size: int  # bytes

    def __str__(self) -> str:
        """Return the shard's path and the name, as if the shard were a folder."""
        return f"{self.shard}/{self.name}"

    @property
    def suffix(self) -> str:
        """The suffix of the name, with its dot."""
        return os.path.splitext(self.name)[1]

    @property
    def parent(self) -> Path:
        """The folder of the member, as if the shard were a folder."""
        return (self.shard / self.name).parent

    def resolve(self) -> TarMember:
        """Return the member with the shard's real path."""
        return replace(self, shard=self.shard.resolve())

    def is_file(self) -> bool:
        """Return True if the shard exists."""
        return self.shard.is_file()

    def stat(self) -> Stamp:
        """Return size and times. Raises OSError if the shard is missing."""
        about = self.shard.stat()
        return Stamp(self.size, about.st_mtime_ns, about.st_ctime_ns)

    def open(self, mode: str = "rb") -> BinaryIO:
        """Return the member as an open file. Raises OSError if the shard is missing."""
        assert mode == "rb"
        return io.BufferedReader(_Part(self.shard.open("rb", buffering=0), self.offset, self.size))

    def read_bytes(self) -> bytes:
        """Return the content. Raises OSError if the shard is missing, or has become shorter since it was indexed."""
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) != self.size:
            raise OSError(f"the shard ends after {len(content)} of its {self.size} bytes; copy the shard again")
        return content


File: TypeAlias = Path | TarMember


class _Part(io.RawIOBase):
    """A part of a file, as a file of its own."""

    def __init__(self, file: io.FileIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._place = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._place = base + offset
        return self._place

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer)[: max(0, self._size - self._place)]
        self._file.seek(self._start + self._place)
        count = self._file.readinto(view) or 0
        self._place += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def index_shard(shard: Path, faults: list[Fault]) -> Iterator[TarMember]:
    """Yield the files of a shard, in its order. Hidden files are left out. Add the faults of the shard to `faults`.

    A fault is a shard that is no tar file, is compressed or ends early, a name that occurs twice, and a link.
    """
    names: set[str] = set()
    try:
        with tarfile.open(shard, "r:") as archive:
            before = -1
            for info in archive:
                if info.offset <= before:  # a damaged size leads back; without this check the loop has no end
                    raise tarfile.ReadError(f"the header of {info.name!r} is damaged")
                before = info.offset
                name = "/".join(part for part in info.name.split("/") if part not in ("", "."))
                if info.isdir() or any(part.startswith(".") or part == "__MACOSX" for part in name.split("/")):
                    continue
                problem = _problem(info, name in names)
                if problem:
                    faults.append(Fault(name, f"{shard}/{name}: {problem}"))
                    continue
                names.add(name)
                yield TarMember(shard, name, info.offset_data, info.size)
            _require_end(shard, archive.offset or 0)
    except UNREADABLE as error:
        faults.append(
            Fault(
                shard.name,
                f"{shard}: not readable as an uncompressed tar file after {len(names)} files ({error}); "
                "copy or write the shard again",
            )
        )


def _problem(info: tarfile.TarInfo, is_known: bool) -> str | None:
    if not info.isreg() or info.issparse():
        return "is a link or another special file; write the shard with ordinary files (tar --dereference)"
    return "occurs twice in this shard; write the shard again, with different names" if is_known else None


def _require_end(shard: Path, end: int) -> None:
    """Raise ReadError if anything except the end mark follows the last member: `tarfile` stops there silently."""
    with shard.open("rb") as file:
        file.seek(end)
        rest = file.read(BLOCK)
        if len(rest) < BLOCK:
            raise tarfile.ReadError("its end is missing")
        while rest:
            if rest.strip(b"\0"):
                raise tarfile.ReadError(f"the header at byte {end} is damaged, or follows the end mark")
            rest = file.read(1 << 20)


def is_stored(path: str) -> bool:
    """Return True if a file exists, or the shard of a member."""
    shard, mark, _ = path.replace(os.sep, "/").rpartition(".tar/")
    return os.path.exists(path) or (bool(mark) and os.path.isfile(f"{shard}.tar"))
