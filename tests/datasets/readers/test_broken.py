"""Folders with many kinds of faults: each gives one clear message, or is read as if it were intact."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from detector.datasets.faults import FaultyDataError
from detector.datasets.folder import Folder, FolderDataset
from detector.datasets.readable import require_readable
from tests.datasets.readers import broken, formats


def objects(folder: Folder) -> list[tuple[str, list[float]]]:
    return sorted(
        (side.classes[label - 1], [round(value, 2) for value in box])
        for side in (folder.train, folder.test)
        for item in side.annotations
        for label, box in zip(item.labels.tolist(), item.boxes.tolist(), strict=True)
    )


def open_and_decode(root: Path) -> Folder:
    """Open a folder as training does, with the check of its pictures. Then decode every picture."""
    folder = Folder(root)
    sides: list[FolderDataset] = [folder.train, folder.test]
    for side in sides:
        require_readable(side, decode=False, keep_checks=False, skip=False, keep_indices=False, where=str(root))
        for index in range(len(side.annotations)):
            side.image(index)
    return folder


@pytest.mark.parametrize("fault", broken.FAULTS, ids=lambda fault: f"{fault.write.__name__}: {fault.name}")
def test_a_faulty_folder_gives_its_message_or_is_read(
    fault: broken.Fault, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "data"
    fault.write(root)
    fault.change(root)
    try:
        folder = open_and_decode(root)
    except ValueError as error:
        message = str(error)
        assert fault.message is not None, message
        assert str(root) in message
        if isinstance(error, FaultyDataError):
            assert all(str(root) in item.message for item in error.faults)  # noqa: PT017
    else:
        message = "\n".join([*folder.summary, *folder.odd, caplog.text])
        if fault.message is None:
            truth = sorted((name, [*map(float, box)]) for rows in formats.TRUTH.values() for name, box in rows)
            assert objects(folder) == truth
    if fault.message is not None:
        assert re.search(fault.message, message, re.DOTALL), message


def test_there_are_many_faults() -> None:
    names = [(fault.write, fault.name) for fault in broken.FAULTS]
    assert len(set(names)) == len(names) > 120
