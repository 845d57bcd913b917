"""`detector explain`: published numbers, pictures that match them, and one line for every fault."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detector.ops import ps_roi_pool, roi_align, roi_pool
from detector.ops.boxes import to_rois
from detector.tools import cli
from detector.tools.explain.draw import GAINED, LOST_BINS, LOST_CORNERS
from detector.tools.explain.examples import named_map
from detector.tools.explain.operators import read_map, read_request, run_explain

ROOT = Path(__file__).parents[3]
README = (ROOT / "ops" / "README.md").read_text()
COMMANDS = [line for line in README.splitlines() if line.startswith("detector explain ") and "output=" in line]
MAPS = {"deepsense_8x8": "deepsense", "slides_25x18": "slides", "ramp_6x6": "ramp", "ps_ramp_4x6x6": "ps_ramp"}
PUBLISHED = 6e-5  # the documents print four digits


def vectors() -> dict[str, list[dict[str, object]]]:
    for folder in (ROOT.parent, ROOT.parent.parent):
        path = folder / "shared" / "spec" / "op_vectors.json"
        if path.is_file():
            found: dict[str, list[dict[str, object]]] = json.loads(path.read_text())
            return found
    pytest.skip("shared/spec/op_vectors.json is not here")


def words_of(case: dict[str, object], output: Path) -> list[str]:
    rois = ";".join(",".join(str(value) for value in roi[1:]) for roi in case["rois"])  # type: ignore[attr-defined]
    height, width = case["output_size"]  # type: ignore[misc]
    words = [
        str(case["op"]),
        f"map={MAPS[str(case['features'])]}",
        f"rois={rois}",
        f"output_size={height},{width}",
        f"spatial_scale={case['spatial_scale']}",
        f"output={output}",
    ]
    return words + [f"{key}={value}" for key, value in case["options"].items()]  # type: ignore[attr-defined]


def picture(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        return opened.convert("RGB")


def printed_table(text: str, heading: str) -> np.ndarray:
    """Return the numbers below a heading. All tables of that name are joined by rows."""
    tables = re.findall(rf"^{heading}\n((?:  .*\n)+)", text, re.MULTILINE)
    return np.array([[float(word) for word in line.split()] for table in tables for line in table.splitlines()])


def test_worked_examples_give_the_published_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = vectors()["cases"]
    assert len(cases) == 24
    for case in cases:
        run_explain(words_of(case, tmp_path / "a.png"))
        pooled = printed_table(capsys.readouterr().out, "pooled")
        np.testing.assert_allclose(pooled, case["expected"], atol=PUBLISHED, err_msg=str(case["name"]))


def test_gradients_equal_the_published_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for case in vectors()["gradients"]:
        run_explain([*words_of(case, tmp_path / "a.png"), "show=gradient"])
        gradient = printed_table(capsys.readouterr().out, "gradient of the sum of all outputs")
        expected = np.array(case["expected"]).reshape(gradient.shape)
        np.testing.assert_allclose(gradient, expected, atol=PUBLISHED, err_msg=str(case["name"]))


def test_built_in_maps_equal_the_published_ones() -> None:
    maps = vectors()["maps"]
    for published, ours in MAPS.items():
        values = torch.tensor(maps[published])  # type: ignore[call-overload]
        assert torch.equal(named_map(ours), values.reshape(-1, *values.shape[-2:]))  # type: ignore[arg-type]


def test_the_samples_of_the_first_bin_on_the_slides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_explain(["roi_align", f"output={tmp_path / 'a.png'}"])
    lines = [line for line in capsys.readouterr().out.splitlines() if re.match(r"S\d", line)]
    assert [line.split(": ")[1] for line in lines] == ["0.4875  largest", "0.4377", "0.3312", "0.2814"]
    assert "x 10.972, y 7.188" in lines[1]


def test_the_areas_lost_and_gained_in_the_example_of_the_post(tmp_path: Path) -> None:
    """The RoI of 6.25 x 4.53 cells becomes 6 x 4 cells, and one row is not used."""
    result = run_explain(["roi_pool", "example=post", f"output={tmp_path / 'a.png'}"])
    areas = result.areas()
    assert areas["RoI"] == pytest.approx(6.25 * 4.53125)
    assert areas["lost by rounding bins"] == pytest.approx(5.75)  # the row without the quarter cell left of the RoI
    assert areas["gained"] == pytest.approx(3 * 0.25)
    assert areas["RoI"] == pytest.approx(
        areas["read"] + areas["lost by rounding corners"] + areas["lost by rounding bins"]
    )
    pixels = np.asarray(picture(tmp_path / "a.png")).astype(int)
    drawn = [(np.abs(pixels - color).max(axis=-1) < 6).sum() for color in (LOST_CORNERS, LOST_BINS, GAINED)]
    shares = np.array(drawn) / sum(drawn)
    expected_shares = np.array([areas["lost by rounding corners"], areas["lost by rounding bins"], areas["gained"]])
    np.testing.assert_allclose(shares, expected_shares / expected_shares.sum(), atol=0.06)


def test_shown_values_equal_those_of_the_operator(tmp_path: Path) -> None:
    """On a random map from a file, with options other than the defaults."""
    values = np.random.default_rng(3).random((1, 9, 13), dtype=np.float32)
    np.save(tmp_path / "map.npy", values)
    map_word, box = f"map={tmp_path / 'map.npy'}", "rois=7,9,150,101.5"
    rest = [map_word, box, "output_size=2,4", "spatial_scale=1/16", f"output={tmp_path / 'a.png'}"]
    features, rois = torch.from_numpy(values)[None], to_rois([torch.tensor([[7.0, 9, 150, 101.5]])])
    result = run_explain(["roi_pool", *rest, "quantization=outer"])
    assert torch.equal(result.pooled, roi_pool(features, rois, (2, 4), 1 / 16, quantization="outer")[0, 0])
    for (row, column), (y, x) in result.cells.items():
        assert result.pooled[row, column] == features[0, 0, y, x]
        assert result.bin(row, column).left <= x < result.bin(row, column).right
    result = run_explain(["roi_align", *rest, "aligned=false", "sampling_ratio=3", "reduction=mean"])
    expected = roi_align(features, rois, (2, 4), 1 / 16, sampling_ratio=3, aligned=False)[0, 0]
    torch.testing.assert_close(result.pooled, expected)
    assert result.samples is not None
    torch.testing.assert_close(result.samples.values.mean(dim=(2, 3)).float(), expected, rtol=1e-5, atol=1e-5)


def test_random_score_maps_give_the_operators_values(tmp_path: Path) -> None:
    words = ["ps_roi_pool", "map=random", "seed=5", "map_size=7,9", "output_size=3", "rois=-9,20,130,300"]
    result = run_explain([*words, "reduction=max", f"output={tmp_path / 'a.png'}"])
    rois = to_rois([torch.tensor([[-9.0, 20, 130, 300]])])
    assert torch.equal(result.pooled, ps_roi_pool(result.maps[None], rois, 3, 1 / 16, reduction="max")[0, 0])
    vote = run_explain([*words, f"output={tmp_path / 'b.png'}"]).vote
    assert vote == pytest.approx(run_explain(["ps_roi_vote", *words[1:], f"output={tmp_path / 'c.png'}"]).vote)


@pytest.mark.parametrize("box", ["500,500,600,600", "64,64,32,32", "-1e6,-1e6,1e6,1e6", "20,20,20,20"])
@pytest.mark.parametrize("op", ["roi_pool", "roi_align", "ps_roi_pool", "ps_roi_align"])
def test_degenerate_rois_are_drawn(op: str, box: str, tmp_path: Path) -> None:
    ratio = ["sampling_ratio=2"] if op.endswith("align") else []
    run_explain([op, f"rois={box}", f"output={tmp_path / 'a.png'}", *ratio])
    width, height = picture(tmp_path / "a.png").size
    assert 200 < width < 1600
    assert 150 < height < 1600


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_readme_run(command: str, tmp_path: Path) -> None:
    words = shlex.split(command)[1:]
    named = next(word.partition("=")[2] for word in words if word.startswith("output="))
    words = [f"output={tmp_path / 'a.png'}" if word.startswith("output=") else word for word in words]
    assert cli.run(words) == 0
    committed = ROOT / named
    assert committed.stat().st_size < 60_000
    drawn, kept = picture(tmp_path / "a.png"), picture(committed)
    assert drawn.size == kept.size, "run make figures"
    assert len(drawn.getcolors(1 << 16) or ()) > 12
    assert f"({Path('..') / named})" in README


def test_text_maps_can_have_channels(tmp_path: Path) -> None:
    (tmp_path / "map.csv").write_text("1, 2, 3\n4, 5, 6\n\n7 8 9\n10 11 12\n")
    assert torch.equal(read_map(tmp_path / "map.csv"), torch.arange(1.0, 13).view(2, 2, 3))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("roi_poll", "expected an operator, one of roi_pool"),
        ("roi_pool quantisation=floor", "did you mean quantization?"),
        ("roi_pool reduction=max", "reduction: no such setting of explain roi_pool"),
        ("roi_pool rois", "expected settings key=value, got 'rois'"),
        ("roi_pool rois=1,2,3", "rois=1,2,3: expected 4 numbers"),
        ("roi_pool rois=1,2,3,nan", "expected 4 numbers"),
        ("roi_pool output_size=0", "output_size=0: expected one number or height,width"),
        ("roi_pool output_size=2,2,2", "output_size=2,2,2: expected"),
        ("ps_roi_pool output_size=2,1", "(k, k)"),
        ("roi_pool spatial_scale=-1", "spatial_scale=-1: expected a positive number"),
        ("roi_pool spatial_scale=1/0", "spatial_scale=1/0: expected a positive number"),
        ("roi_pool quantization=ceil", "expected quantization to be one of"),
        ("roi_align sampling_ratio=-1", "sampling_ratio of at least 0"),
        ("roi_align sampling_ratio=two", "sampling_ratio=two: expected a whole number"),
        ("roi_align sampling_ratio=2000", "give sampling_ratio=2"),
        ("roi_align sample_grid=outer", "expected sample_grid"),
        ("roi_align aligned=maybe", "aligned=maybe: expected true or false"),
        ("ps_roi_pool reduction=sum", "expected reduction to be one of"),
        ("ps_roi_pool output_size=3", "needs 9 channel(s), one for each of 3 x 3 bins, got 4"),
        ("roi_pool map=nowhere.npy", "map=nowhere.npy: expected one of deepsense"),
        ("roi_pool map=random seed=x", "seed=x: expected a whole number"),
        ("roi_pool example=none", "example=none: expected one of deepsense"),
        ("roi_pool show=all", "show=all: expected values or gradient"),
        ("roi_pool output=a.txt", "output=a.txt: expected the name of a picture"),
        ("ps_roi_pool weights=runs/x", "needs images=PICTURE"),
        ("ps_roi_pool weights=runs/x images=a.jpg quantization=floor", "quantization: no such setting"),
        ("ps_roi_pool weights=runs/x images=a.jpg box=1,2", "box=1,2: expected 4 numbers"),
    ],
)
def test_faults_give_one_line(words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = [] if "output=" in words else [f"output={tmp_path / 'a.png'}"]
    assert cli.run(["explain", *words.split(), *output]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ragged.csv", b"1,2\n3\n", "line 2: expected 2 numbers as in line 1, got 1"),
        ("words.txt", b"1 2\nx 3\n", "line 2: expected numbers"),
        ("empty.txt", b"\n\n", r"expected a map \[H, W\]"),
        ("bytes.txt", b"\xff\xfe\x00", "expected a text file or a .npy file"),
        ("broken.npy", b"no array", "saved by numpy.save"),
        ("uneven.txt", b"1 2\n3 4\n\n5 6\n", "channels of one size"),
    ],
)
def test_faulty_map_files_are_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_request(["roi_pool", f"map={tmp_path / name}"])


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["explain", "--help"]) == 0
    result = capsys.readouterr().out
    for setting in (
        "quantization",
        "sampling_ratio",
        "aligned",
        "reduction",
        "sample_grid",
        "map",
        "weights",
        "show",
        "iou",
    ):
        assert f"{setting}=" in result
