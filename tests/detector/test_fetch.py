"""Downloads: resumed, atomic, verified, refused offline; from file URLs and from a local test server."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from detector.fetch import cached, fetch, file_hash

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[tuple[str, list[str | None]]]:
    """A server of CONTENT, and the list of requested ranges. /plain ignores ranges, /short ends after half."""
    ranges: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested = None if self.path == "/plain" else self.headers.get("Range")
            ranges.append(self.headers.get("Range"))
            start = int(requested[6:-1]) if requested else 0
            if start >= len(CONTENT) or self.path == "/none":
                self.send_error(416 if requested else 404)
                return
            self.send_response(206 if requested else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            self.wfile.write(CONTENT[start : len(CONTENT) // 2 if self.path == "/short" else None])

        def log_message(self, *args: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}", ranges
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("have", [0, 1000, len(CONTENT)])
def test_an_interrupted_download_is_resumed(server: tuple[str, list[str | None]], tmp_path: Path, have: int) -> None:
    if have:
        (tmp_path / "a.bin.part").write_bytes(CONTENT[:have])
    fetch(f"{server[0]}/a.bin", tmp_path / "a.bin", SHA256)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert names(tmp_path) == ["a.bin"]
    assert server[1] == [f"bytes={have}-" if have else None]


def test_without_ranges_the_whole_file_is_fetched_again(server: tuple[str, list[str | None]], tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(b"x" * 1000)
    fetch(f"{server[0]}/plain", tmp_path / "a.bin", SHA256[:8])
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_after_a_broken_connection_the_rest_is_fetched(server: tuple[str, list[str | None]], tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"the connection ended after 5120 of 10240 bytes"):
        fetch(f"{server[0]}/short", tmp_path / "a.bin", SHA256)
    assert (tmp_path / "a.bin.part").read_bytes() == CONTENT[:5120]
    fetch(f"{server[0]}/a.bin", tmp_path / "a.bin", SHA256)
    assert server[1] == [None, "bytes=5120-"]


@pytest.mark.parametrize(
    ("path", "sha256", "message"),
    [
        ("/none", None, "Not Found"),
        ("/a", "0" * 64, "expected 000"),
        ("/a", "ABCD", f"has sha256 {SHA256}, expected ABCD"),
    ],
)
def test_a_failed_download_leaves_no_file(
    server: tuple[str, list[str | None]], tmp_path: Path, path: str, sha256: str | None, message: str
) -> None:
    with pytest.raises(OSError, match="cannot download http") as error:
        fetch(f"{server[0]}{path}", tmp_path / "a.bin", sha256)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert names(tmp_path) == []


def test_parallel_requests_fetch_once(server: tuple[str, list[str | None]], tmp_path: Path) -> None:
    threads = [threading.Thread(target=fetch, args=(f"{server[0]}/a", tmp_path / "a", SHA256)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert (len(server[1]), names(tmp_path)) == (1, ["a"])


def test_offline_only_the_cache_is_used(
    server: tuple[str, list[str | None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    path = cached(f"{server[0]}/a", "a.bin", SHA256)
    assert path == tmp_path / "checkpoints" / "a.bin"
    monkeypatch.setenv("DETECTOR_OFFLINE", "1")
    assert cached(f"{server[0]}/a", "a.bin", SHA256) == path
    with pytest.raises(ValueError, match=r"cannot download .*DETECTOR_OFFLINE is set.*Put the file at .*b.bin"):
        cached(f"{server[0]}/a", "b.bin", SHA256)
    assert len(server[1]) == 1
    path.write_bytes(b"changed")
    with pytest.raises(ValueError, match="delete the file and download it again"):
        cached(f"{server[0]}/a", "a.bin", SHA256)


def test_file_urls_are_fetched(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(CONTENT)
    fetch((tmp_path / "source").as_uri(), tmp_path / "there" / "a.bin", SHA256)
    assert file_hash(tmp_path / "there" / "a.bin", "md5") == hashlib.md5(CONTENT).hexdigest()
    with pytest.raises(OSError, match="cannot download"):
        fetch((tmp_path / "missing").as_uri(), tmp_path / "b.bin")
    with pytest.raises(OSError, match="cannot download nonsense"):
        fetch("nonsense", tmp_path / "b.bin")
    assert names(tmp_path / "there") == ["a.bin"]
