"""The folder of a run."""

from pathlib import Path

import pytest

from detector.pipeline.run_folder import open_run


def test_a_folder_that_cannot_be_made_is_named_with_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "notes"
    file.write_text("a file")
    with pytest.raises(
        OSError, match=f"cannot write to the run's folder {file} .it is a file.; set another output_dir"
    ):
        open_run(str(file), "train")
    with pytest.raises(OSError, match="Not a directory"):
        open_run(str(file / "run"), "train")
