"""`detector export format=portable`: a trained run becomes one file that every command takes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from detector.export.portable import read_portable
from detector.tools.cli import run
from tests.tools.tiny_run import TINY


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model.safetensors"
    assert run(["export", f"weights={trained}", "format=portable", f"output={path}"]) == 0
    return path


def test_the_file_holds_only_the_data_for_detection(trained: Path, exported: Path) -> None:
    checkpoint: dict[str, Any] = torch.load(trained / "checkpoints" / "last.pt", weights_only=True)
    model = read_portable(exported)
    assert list(model.classes) == checkpoint["classes"]
    assert model.provenance["step"] == 2
    assert model.provenance["versions"]["torch"] == checkpoint["versions"]["torch"]
    assert model.provenance["metrics"]["step"] == 2
    assert model.preprocessing["short_side"] == 48
    assert model.config["head"]["kind"] == "fast_rcnn"
    assert not {"weights", "output_dir", "export", "resume"} & model.config.keys()
    assert not any(name.startswith("head.tail") for name in model.weights), "the tail is stored once"
    assert (model.weights["coder.std"] == 1).all()
    assert exported.stat().st_size < 0.6 * (trained / "checkpoints" / "last.pt").stat().st_size


def test_detections_equal_those_of_the_checkpoint(trained: Path, exported: Path, tmp_path: Path) -> None:
    for name, weights in (("a", trained), ("b", exported)):
        assert (
            run(["eval", f"weights={weights}", "postprocess.score_threshold=0.01", f"output_dir={tmp_path / name}"])
            == 0
        )
    a, b = ((tmp_path / name / "detections").glob("*.txt") for name in "ab")
    found = 0
    for one, other in zip(sorted(a), sorted(b), strict=True):
        lines = zip(one.read_text().splitlines(), other.read_text().splitlines(), strict=True)
        for (image, *numbers), (other_image, *other_numbers) in ((x.split(), y.split()) for x, y in lines):
            assert image == other_image
            assert list(map(float, numbers)) == pytest.approx(list(map(float, other_numbers)), abs=2e-3)
            found += 1
    assert found


def test_training_from_the_file_normalises_box_targets_again(exported: Path, tmp_path: Path) -> None:
    words = ["train", *TINY, f"weights={exported}", "optimizer.lr=0", f"output_dir={tmp_path / 'more'}"]
    assert run(words) == 0
    again = tmp_path / "again.safetensors"
    assert run(["export", f"weights={tmp_path / 'more'}", f"output={again}"]) == 0
    checkpoint = torch.load(tmp_path / "more" / "checkpoints" / "last.pt", weights_only=True)
    assert (checkpoint["model"]["coder.std"] != 1).any(), "targets are normalised as in the config"
    one, other = read_portable(exported), read_portable(again)
    for name, value in one.weights.items():
        torch.testing.assert_close(other.weights[name], value, atol=1e-6, rtol=1e-5)


def test_averaged_or_raw_weights_can_be_exported(tmp_path: Path) -> None:
    words = ["train", *TINY, "trainer.ema_decay=0.5", "optimizer.lr=0.01", f"output_dir={tmp_path / 'run'}"]
    assert run(words) == 0
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
    for choice, key in (("true", "average"), ("false", "model"), ("null", "average")):
        path = tmp_path / f"{choice}.safetensors"
        assert run(["export", f"weights={tmp_path / 'run'}", f"average={choice}", f"output={path}"]) == 0
        assert read_portable(path).provenance["weights"] == ("raw" if key == "model" else "average")
        assert torch.equal(read_portable(path).weights["head.scores.weight"], checkpoint[key]["head.scores.weight"])
    assert not torch.equal(checkpoint["model"]["head.scores.weight"], checkpoint["average"]["head.scores.weight"])


def test_overrides_are_saved_in_the_file(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "strict.safetensors"
    assert run(["export", f"weights={exported}", f"output={path}", "postprocess.score_threshold=0.7"]) == 0
    assert read_portable(path).config["postprocess"]["score_threshold"] == 0.7


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["weights={exported}"], 2, "export needs weights=CHECKPOINT and output=FILE"),
        (["weights={exported}", "output=x", "format=zip"], 2, "export.format"),
        (["weights={exported}", "output=x.onnx"], 2, "another format than format=portable; set format=onnx"),
        (["weights={trained}", "output=x", "average=true"], 1, "has no averaged weights"),
        (["weights={exported}.not", "output=x"], 1, "no such file"),
        (["weights={exported}", "output=x", "backbone.tail_channels=8"], 1, "does not fit this model"),
    ],
)
def test_wrong_exports_are_refused(
    trained: Path, exported: Path, words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", *(word.format(exported=exported, trained=trained) for word in words)]) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1]


def test_a_damaged_file_gives_one_line_in_every_command(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(exported.read_bytes()[:-5])
    for words in (["eval"], ["export", "output=x"], ["predict", f"images={path}"], ["train", *TINY]):
        assert run([*words, f"weights={path}", f"output_dir={tmp_path / 'o'}"]) == 1
        assert "is damaged" in capsys.readouterr().err.strip().splitlines()[-1]
