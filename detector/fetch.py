"""Downloads files: continues interrupted downloads, verifies checksums, and gives only complete files their names.

DETECTOR_OFFLINE=1 in the environment forbids every download. Files in the cache still work.
"""

from __future__ import annotations

import hashlib
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tqdm import tqdm

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

CHUNK = 1 << 20
TIMEOUT = 30  # seconds without a response
OFFLINE = "DETECTOR_OFFLINE"


def cached(url: str, name: str, sha256: str | None) -> Path:
    """Return the path of the file from `url`, cached as `name` in torch's hub folder ($TORCH_HOME).

    Every call verifies the checksum. `sha256` may have only the first digits, or be None if unknown.
    Raises ValueError if the download fails or the checksum does not match.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.is_file():
        require_sha256(path, sha256)
        return path
    try:
        fetch(url, path, sha256)
    except OSError as error:
        raise ValueError(f"{error}. Put the file at {path}") from error
    return path


def fetch(url: str, path: Path, sha256: str | None = None) -> None:
    """Download to a .part file beside `path`, verify the checksum, then rename the file to `path`.

    An earlier .part file is continued. Of several processes one downloads and the others wait. Raises OSError with a
    one-line message for every failure.
    """
    if os.environ.get(OFFLINE, "0") not in ("", "0"):
        raise OSError(f"cannot download {url} ({OFFLINE} is set, and {path} does not exist)")
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(part):
        if path.is_file():  # another process downloaded it while this one waited
            return
        try:
            _download(url, part, path.name)
            require_sha256(part, sha256)
        except ValueError as error:  # the complete file has another checksum, or the URL is invalid
            part.unlink(missing_ok=True)
            raise OSError(f"cannot download {url} ({error})") from error
        except OSError as error:
            raise OSError(f"cannot download {url} ({getattr(error, 'reason', error)})") from error
        os.replace(part, path)


def require_sha256(path: Path, sha256: str | None) -> None:
    """Raise ValueError unless the file's hash begins with `sha256`."""
    if sha256 is not None and not (found := file_hash(path, "sha256")).startswith(sha256.lower()):
        raise ValueError(f"{path} has sha256 {found}, expected {sha256}; delete the file and download it again")


def file_hash(path: Path, algorithm: str) -> str:
    """Return the hash of a file as hexadecimal digits."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _download(url: str, part: Path, name: str) -> None:
    start = part.stat().st_size
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if start and error.code == 416:  # the server has no further bytes: the part is complete
            return
        raise
    with answer:
        resumed = getattr(answer, "status", None) == 206  # a server without ranges sends the whole file again
        start = start if resumed else 0
        rest = int(answer.headers.get("Content-Length") or 0)
        received = 0
        with (
            open(part, "ab" if resumed else "wb") as file,
            tqdm(total=start + rest, initial=start, unit="B", unit_scale=True, desc=name, file=sys.stderr) as bar,
        ):
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                received += len(chunk)
                bar.update(len(chunk))
        if rest and received < rest:
            raise OSError(f"the connection ended after {received} of {rest} bytes")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file during the block. Systems without file locks do not wait."""
    with open(path, "ab") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            if path.is_file() and path.stat().st_size == 0:
                path.unlink()
