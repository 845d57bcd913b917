"""`detector compress`: a smaller model that loads, detects and exports like any other."""

from pathlib import Path

import pytest

from detector.export.portable import read_portable
from detector.tools.cli import run
from tests.tools.tiny_run import TINY


def test_given_ranks_are_used(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = tmp_path / "small.safetensors"
    assert run(["compress", f"weights={trained}", "ranks=[4,0]", "evaluate=true", f"output={small}"]) == 0
    printed = capsys.readouterr().err
    assert "before" in printed
    assert "mAP07" in printed
    model = read_portable(small)
    assert model.config["backbone"]["tail_ranks"] == [4, 0]
    assert any(name.endswith("tail.1.0.weight") for name in model.weights)
    assert run(["eval", f"weights={small}", f"output_dir={tmp_path / 'eval'}"]) == 0
    again = tmp_path / "again.safetensors"
    assert run(["export", f"weights={small}", f"output={again}"]) == 0
    assert read_portable(again).weights.keys() == model.weights.keys()


def test_a_model_with_a_reduced_map_can_be_compressed(tmp_path: Path) -> None:
    run_folder, small = tmp_path / "run", tmp_path / "small.safetensors"
    assert run(["train", *TINY, "head.channels=6", f"output_dir={run_folder}"]) == 0
    assert run(["compress", f"weights={run_folder}", "ranks=[4,0]", f"output={small}"]) == 0
    model = read_portable(small)
    first = next(value for name, value in model.weights.items() if name.endswith("tail.1.0.weight"))
    assert tuple(first.shape) == (4, 6 * 7 * 7)
    assert run(["eval", f"weights={small}", f"output_dir={tmp_path / 'eval'}"]) == 0


def test_a_head_without_a_tail_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert run(["train", *TINY, "head=light_head", "head.mid_channels=8", f"output_dir={folder}"]) == 0
    assert run(["compress", f"weights={folder}", "ranks=[4]", f"output={tmp_path / 'x'}"]) == 1
    assert "compress needs the fully connected tail of a Fast R-CNN head" in capsys.readouterr().err


def test_a_search_takes_the_smallest_ranks_within_max_drop(trained: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.safetensors"
    assert run(["compress", f"weights={trained}", "max_drop=1", f"output={small}"]) == 0
    assert read_portable(small).config["backbone"]["tail_ranks"] == [1, 1]


@pytest.mark.parametrize(
    ("words", "message"),
    [((), "needs one of"), (("ranks=[4,4]", "max_ms=1"), "needs one of"), (("ranks=[4]",), "one rank for each")],
)
def test_wrong_words_are_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert run(["compress", f"weights={trained}", *words, f"output={tmp_path / 'x'}"]) != 0
    assert message in capsys.readouterr().err
