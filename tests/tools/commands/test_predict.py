"""`detector predict`: the values of `images=`, the written files, and messages about unreadable files."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detector.build import build_detector
from detector.configs.compose import load_config
from detector.configs.groups import to_plain
from detector.datasets.synthetic import SyntheticDataset
from detector.export.portable import PortableModel, write_portable
from detector.tools.cli import run
from detector.tools.prediction import videos
from detector.tools.prediction.picture_list import find_pictures, is_moving, short_names

CLASSES = ("disc", "square", "triangle", "cross", "diamond", "ring")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained portable model: every class scores about 1 / 7 everywhere."""
    boxes = ["proposals=grid", "proposals.scales=[0.4]", "proposals.aspects=[1.0]", "postprocess.score_threshold=0.12"]
    network = ["backbone=resnet18_narrow", "backbone.width=0.125", "input.test_short_side=48", "trainer.device=cpu"]
    config = load_config(["dataset=synthetic", *boxes, *network])
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("predict") / "model.safetensors"
    weights = build_detector(config, len(CLASSES)).state_dict()
    write_portable(path, PortableModel(to_plain(config), CLASSES, {}, {}, weights))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures, one with a space in its name, and two files that are not readable pictures."""
    dataset = SyntheticDataset("test", num_images=3, height=48, width=64, seed=0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, name in enumerate(("a.png", "b c.jpg", "d.png")):
        Image.fromarray(dataset.image(index).permute(1, 2, 0).numpy()).save(folder / name)
    (folder / "broken.jpg").write_bytes((folder / "b c.jpg").read_bytes()[:400])
    (folder / "notes.md").write_text("no picture")
    return folder


@pytest.fixture
def predict(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """A function that runs predict with more words. It returns exit code, messages and output folder."""

    def call(*words: str) -> tuple[int, str, Path]:
        folder = tmp_path / "out"
        code = run(["predict", f"weights={model}", f"output_dir={folder}", *words])
        return code, capsys.readouterr().err, folder

    return call


def test_every_result_format_has_the_same_content(predict: Any, photos: Path) -> None:
    code, messages, folder = predict(f"images={photos}", "results=[json,csv,voc,coco]", "batch_size=2")
    assert code == 1, "one picture could not be read"
    assert "broken.jpg: cannot decode" in messages
    content = json.loads((folder / "detections.json").read_text())
    assert list(content["images"]) == ["a.png", "b c.jpg", "d.png"]
    assert list(content["unreadable"]) == [str(photos / "broken.jpg")]
    rows = [(name, row["class"], row["score"], *row["box"]) for name, rows in content["images"].items() for row in rows]
    assert len(rows) > 3
    with open(folder / "detections.csv", newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["image", "class", "score", "x1", "y1", "x2", "y2"]
    assert [(name, kind, *map(float, numbers)) for name, kind, *numbers in lines[1:]] == rows
    coco = json.loads((folder / "coco_results.json").read_text())
    stems = {"a.png": "a", "b c.jpg": "b_c", "d.png": "d"}
    assert [(item["image_id"], content["classes"][item["category_id"] - 1]) for item in coco] == [
        (stems[name], kind) for name, kind, *_ in rows
    ]
    for path in (folder / "voc").iterdir():
        kind = path.stem.removeprefix("comp4_det_test_")
        lines = [line.split() for line in path.read_text().splitlines()]
        same = [row for row in rows if row[1] == kind]
        assert [line[0] for line in lines] == [stems[row[0]] for row in same]
        for line, row in zip(lines, same, strict=True):  # VOC's minima are 1-based
            assert [float(line[2]) - 1, float(line[5])] == pytest.approx([row[3], row[6]], abs=1e-3)


def test_classes_and_thresholds_filter_results_drawings_and_crops(predict: Any, photos: Path) -> None:
    settings = ["classes=[disc,ring]", "score_threshold=0.12", "draw_threshold=0.12", "crops=true"]
    code, _, folder = predict(f"images={photos}/*.png", *settings)
    assert code == 0
    content = json.loads((folder / "detections.json").read_text())["images"]
    assert list(content) == ["a.png", "d.png"]
    rows = [(Path(name).stem, row) for name, found in content.items() for row in found]
    assert rows
    assert {row["class"] for _, row in rows} <= {"disc", "ring"}
    assert min(row["score"] for _, row in rows) >= 0.12
    assert len(list((folder / "crops").rglob("*.jpg"))) == len(rows)
    stem, row = rows[0]
    x1, y1, x2, y2 = row["box"]
    with Image.open(folder / "crops" / row["class"] / f"{stem}_000.jpg") as crop:
        assert crop.size == (np.ceil(x2) - np.floor(x1), np.ceil(y2) - np.floor(y1))
    assert sorted(path.name for path in folder.glob("*.jpg")) == ["a.jpg", "d.jpg"]
    _, _, folder = predict(f"images={photos / 'a.png'}", "draw=false", f"output_dir={folder.parent / 'bare'}")
    assert sorted(path.name for path in (folder.parent / "bare").iterdir()) == ["detections.json", "log.txt"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["images=nothing/*.jpg"], 1, "found no picture"),
        (["images=nothing.txt"], 1, "no such list"),
        (["images={photos}/notes.md"], 1, "1 unreadable"),
        (["images={photos}", "classes=[cat]"], 2, "predict.classes has cat; the model has disc"),
        (["images={photos}", "results=[xml]"], 2, "expected one of [json, csv, voc, coco]"),
        (["images={photos}", "batch_size=0"], 2, "predict.batch_size is 0"),
        (["images={photos}", "output_dir={photos}"], 2, "would overwrite them"),
        (
            ["images={photos}/a.png", "proposals=file", "proposals.train=x", "proposals.test=x"],
            2,
            "proposals=file has no",
        ),
    ],
)
def test_wrong_words_and_files_give_one_line(
    predict: Any, photos: Path, words: list[str], code: int, message: str
) -> None:
    found, messages, _ = predict(*(word.format(photos=photos) for word in words))
    assert found == code
    assert message in messages
    assert "Traceback" not in messages


def test_large_pictures_are_detected_in_tiles(predict: Any, tmp_path: Path) -> None:
    """The four corners of a picture of 2 x 2 tiles are copies, so each tile has the detections of a corner."""
    dataset = SyntheticDataset("test", num_images=1, height=64, width=64, seed=1)
    corner = dataset.image(0).permute(1, 2, 0).numpy()
    Image.fromarray(np.tile(corner, (2, 2, 1))).save(tmp_path / "large.png")
    code, messages, folder = predict(f"images={tmp_path / 'large.png'}", "tile=64", "tile_overlap=0", "draw=false")
    assert code == 0, messages
    tiled = json.loads((folder / "detections.json").read_text())["images"]["large.png"]
    assert len(tiled) > 0
    code, messages, _ = predict(f"images={tmp_path / 'large.png'}", "tile=8")
    assert code == 2
    assert "predict.tile is 8; expected at least 32" in messages


def test_a_list_names_pictures_beside_it(photos: Path) -> None:
    (photos / "list.txt").write_text("d.png\n\n  a.png \nmissing.png\n")
    assert list(find_pictures(str(photos / "list.txt"))) == ["d.png", "a.png", "missing.png"]
    (photos / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match="found no picture"):
        find_pictures(str(photos / "empty.txt"))


def test_short_names_are_unique(photos: Path) -> None:
    (photos / "more").mkdir()
    (photos / "more" / "a.png").write_bytes(b"")
    (photos / "a.jpg").write_bytes(b"")
    found = find_pictures(f"{photos}/**/a.*")
    assert len(found) == 3
    assert len(set(short_names(found).values())) == 3
    assert not any("/" in name or " " in name for name in short_names(found).values())
    assert short_names(["x.jpg", "v_000001"]) == {"x.jpg": "x", "v_000001": "v_000001"}


def test_exif_rotates_the_picture(predict: Any, photos: Path) -> None:
    with Image.open(photos / "b c.jpg") as picture:
        exif = picture.getexif()
        exif[0x0112] = 6  # rotate by 90 degrees for display
        picture.copy().save(photos / "turned.jpg", exif=exif)
    code, _, folder = predict(f"images={photos / 'turned.jpg'}")
    assert code == 0
    with Image.open(folder / "turned.jpg") as drawn:
        assert drawn.size == (48, 64)


def test_a_video_is_drawn_frame_by_frame(predict: Any, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5.0, (64, 48))
    for level in range(4):
        writer.write(np.full((48, 64, 3), (0, 0, 60 * level), np.uint8))  # more and more red
    writer.release()
    with torch.no_grad():
        frames = list(videos.Video(str(tmp_path / "film.avi")))
    assert [frame.shape for frame in frames] == [(3, 48, 64)] * 4
    assert [bool(frame[0].float().mean() > frame[2].float().mean() + 30) for frame in frames] == [
        False,
        True,
        True,
        True,
    ]
    code, _, folder = predict(f"images={tmp_path / 'film.avi'}", "max_frames=3", "batch_size=2")
    assert code == 0
    assert list(json.loads((folder / "detections.json").read_text())["images"]) == [f"film_{i:06d}" for i in range(3)]
    assert [frame.shape for frame in videos.Video(str(folder / "film.mp4"))] == [(3, 48, 64)] * 3


def test_ctrl_c_stops_a_camera_and_keeps_the_results(
    predict: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Camera:
        fps, num_frames = 5.0, None

        def __init__(self, name: str) -> None:
            assert name == "camera:0"

        def __iter__(self) -> Any:
            yield torch.zeros(3, 48, 64, dtype=torch.uint8)
            raise KeyboardInterrupt

        def close(self) -> None: ...

    monkeypatch.setattr("detector.tools.commands.predict.Video", Camera)
    code, messages, folder = predict("images=camera:0", "draw=false")
    assert (code, "stopped after 1 frames" in messages) == (0, True)
    assert list(json.loads((folder / "detections.json").read_text())["images"]) == ["camera_000000"]


def test_videos_and_cameras_are_recognised_by_name() -> None:
    assert [is_moving(name) for name in ("a.mp4", "b/C.AVI", "camera:1", "a.jpg", "folder", "x/*.png")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip


def test_without_opencv_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(ValueError, match=r"pip install 'fast-rfcn\[video\]'"):
        videos.Video("a.mp4")


def test_a_file_that_is_not_a_video_is_refused(predict: Any, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    (tmp_path / "film.mp4").write_bytes(b"no film")
    code, messages, _ = predict(f"images={tmp_path / 'film.mp4'}")
    assert code == 1
    assert "OpenCV cannot open this video" in messages
