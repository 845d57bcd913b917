"""Release files: sdist and wheel hold every package file once, with and without links, and the program runs.

A checkout on Windows may have small text files in place of links: git writes them if it may not create links.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "detector": "detector",
    "ops": "detector/ops",
    "datasets": "detector/datasets",
    "configs": "detector/configs",
}
FOLDERS["tools"] = "detector/tools"

pytestmark = pytest.mark.slow


def run(*words: str | Path, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def tracked() -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: the files of a release are not known")
    return run("git", "ls-files", folder=ROOT).splitlines()


def checkout(folder: Path, *, links: bool) -> Path:
    """Copy the tracked files to `folder`. Without `links`, a link becomes a text file that holds its target."""
    for name in tracked():
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink() and not links:
            target.write_text(os.readlink(source))
        else:
            shutil.copy2(source, target, follow_symlinks=False)
    return folder


def built(folder: Path, kind: str) -> Path:
    run(sys.executable, "setup.py", "-q", kind, folder=folder, DETECTOR_NATIVE="none")
    (package,) = (folder / "dist").iterdir()
    return package


def package_files() -> set[str]:
    """Return the paths in the wheel of every Python module and config file of the five packages."""
    found = set()
    for name in tracked():
        top, _, rest = name.partition("/")
        if top in FOLDERS and name.endswith((".py", ".yaml")) and not (ROOT / name).is_symlink():
            found.add(f"{FOLDERS[top]}/{rest}")
    return found


@pytest.fixture(scope="module", params=[True, False], ids=["links", "no links"])
def wheel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(checkout(tmp_path_factory.mktemp("checkout"), links=request.param), "bdist_wheel")


def test_a_wheel_holds_every_package_file_once(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        count = Counter(archive.namelist())
    assert [name for name, times in count.items() if times > 1] == []
    assert package_files() - set(count) == set()
    assert [name for name in count if not name.startswith(("detector/", "fast_rfcn-"))] == []


def test_an_installed_wheel_runs_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    installed, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    where = run(
        sys.executable, "-c", "import detector; print(detector.__file__)", folder=empty, PYTHONPATH=str(installed)
    )
    assert where.strip() == str(installed / "detector" / "__init__.py")
    printed = run(sys.executable, "-m", "detector.tools", "config", "show", folder=empty, PYTHONPATH=str(installed))
    assert "trainer:" in printed


def test_an_sdist_holds_every_tracked_package_file_once(tmp_path: Path) -> None:
    package = built(checkout(tmp_path, links=True), "sdist")
    with tarfile.open(package) as archive:
        count = Counter(name.partition("/")[2] for name in archive.getnames())
    expected = {name for name in tracked() if name.partition("/")[0] in FOLDERS and name.endswith((".py", ".yaml"))}
    assert [name for name, times in count.items() if times > 1] == []
    assert {name for name in expected if not (ROOT / name).is_symlink()} - set(count) == set()
    assert [name for name in count if name.startswith(("detector/ops/", "detector/tools/", "detector/configs/"))] == []
