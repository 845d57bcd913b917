"""`detector download` with test archives: checksums, resuming, mirrors, no network."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from detector.tools.commands.download import Archive, download_voc, fetch_and_unpack, official_archives

FILES = {"VOCdevkit/VOC2007/ImageSets/Main/train.txt": b"a\n", "VOCdevkit/VOC2007/JPEGImages/a.jpg": b"x" * 3000}


def packed(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            item = tarfile.TarInfo(name)
            item.size = len(content)
            archive.addfile(item, io.BytesIO(content))
    return stream.getvalue()


CONTENT = packed(FILES)


@pytest.fixture
def server() -> Iterator[tuple[str, list[str | None]]]:
    """A server of CONTENT at any address, with ranges, and the list of requested ranges."""
    ranges: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested = self.headers.get("Range")
            ranges.append(requested)
            start = int(requested[6:-1]) if requested else 0
            if requested and start >= len(CONTENT):
                self.send_error(416)
                return
            self.send_response(206 if requested else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            self.wfile.write(CONTENT[start:])

        def log_message(self, *args: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}", ranges
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def archive(url: str = "http://127.0.0.1:9/none/voc.tar", md5: str | None = None) -> Archive:
    return Archive(url, "voc.tar", md5 or hashlib.md5(CONTENT).hexdigest(), "2007")


def require_unpacked(root: Path) -> None:
    for name, content in FILES.items():
        assert (root / Path(name).relative_to("VOCdevkit")).read_bytes() == content
    assert sorted(path.name for path in root.iterdir()) == ["VOC2007"], "nothing else is left"


def test_an_archive_is_fetched_and_unpacked_once(server: tuple[str, list[str | None]], tmp_path: Path) -> None:
    fetch_and_unpack(archive(), tmp_path, mirror=server[0] + "/")
    require_unpacked(tmp_path)
    fetch_and_unpack(archive(), tmp_path, mirror=server[0])
    assert server[1] == [None], "an unpacked archive is not fetched again"


@pytest.mark.parametrize("have", [1000, len(CONTENT)])
def test_an_interrupted_download_is_resumed(server: tuple[str, list[str | None]], tmp_path: Path, have: int) -> None:
    (tmp_path / "voc.tar.part").write_bytes(CONTENT[:have])
    fetch_and_unpack(archive(f"{server[0]}/voc.tar"), tmp_path)
    require_unpacked(tmp_path)
    assert server[1] == [f"bytes={have}-"]


def test_a_mirror_may_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "voc.tar").write_bytes(CONTENT)
    (tmp_path / "root").mkdir()
    fetch_and_unpack(archive(), tmp_path / "root", mirror=(tmp_path / "mirror").as_uri())
    require_unpacked(tmp_path / "root")


def test_an_archive_that_is_already_there_is_used_and_kept(tmp_path: Path) -> None:
    (tmp_path / "voc.tar").write_bytes(CONTENT)
    fetch_and_unpack(archive(), tmp_path)
    assert (tmp_path / "voc.tar").is_file()
    assert (tmp_path / "VOC2007/JPEGImages/a.jpg").is_file()


def test_a_wrong_checksum_is_refused(server: tuple[str, list[str | None]], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected the checksum \(md5\) 0000.*, got [0-9a-f]{32}"):
        fetch_and_unpack(archive(md5="0" * 32), tmp_path, mirror=server[0])
    assert [path.name for path in tmp_path.iterdir()] == ["voc.tar.wrong"]


def test_no_network_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot download http://127.0.0.1:9/none/voc.tar .*give mirror=") as error:
        fetch_and_unpack(archive(), tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("content", "message"), [(b"no tar", "cannot unpack"), (packed({"a/b": b""}), "VOCdevkit")])
def test_other_archives_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "voc.tar").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        fetch_and_unpack(archive(md5=hashlib.md5(content).hexdigest()), tmp_path)


def test_official_archives_are_listed_by_year(tmp_path: Path) -> None:
    names = [item.filename for item in official_archives(["2007", "2012"])]
    assert names == ["VOCtrainval_06-Nov-2007.tar", "VOCtest_06-Nov-2007.tar", "VOCtrainval_11-May-2012.tar"]
    with pytest.raises(ValueError, match="year=2010: expected one of 2007, 2012"):
        download_voc(tmp_path, ["2010"])
