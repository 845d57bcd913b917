"""Pictures of a run are saved for any image id."""

from pathlib import Path

import torch

from detector.datasets.folder import Folder
from detector.pipeline.evaluation import save_pictures
from detector.pipeline.run_folder import RunFolder
from detector.structures import Detections
from tests.datasets.test_folder import picture, xml


def test_pictures_with_one_name_in_two_splits_are_saved(tmp_path: Path) -> None:
    """Their image ids are paths: images/test/1."""
    for number, side in enumerate(("train", "test")):
        picture(tmp_path / "data/images" / side / "1.jpg", number)
        xml(tmp_path / "data/annotations" / side / "1.xml", ["car/truck"])
    test_set = Folder(tmp_path / "data").test
    found = Detections(torch.tensor([[1.0, 1, 9, 9]]), torch.tensor([0.9]), torch.tensor([1]))
    save_pictures(RunFolder(tmp_path), test_set, [found], 1)
    assert [file.name for file in (tmp_path / "pictures").iterdir()] == ["images_test_1.jpg"]
