"""`detector eval detections=...`: every kind of file gives the same scores, every fault gives one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from detector.metrics import voc
from detector.metrics.result_files import write_coco_results, write_voc_results
from detector.metrics.tables import DetectionTable, TruthTable

Command = Callable[..., tuple[int, str, Path]]
Dumped = Callable[[DetectionTable, str], Path]


def metrics_of(folder: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((folder / "metrics.json").read_text())
    return content


def test_a_dump_is_scored_by_every_protocol(
    command: Command, dumped: Dumped, faulty: DetectionTable, truths: TruthTable
) -> None:
    folder = dumped(faulty, "run")
    code, printed, out = command("eval", f"detections={folder}", "evaluation.protocols=[voc07_11point,voc_area,coco]")
    assert code == 0, printed
    expected = voc.evaluate(faulty, truths).to_json()
    found = metrics_of(out)
    assert {name: found[name] for name in expected} == json.loads(json.dumps(expected))
    assert found["coco"]["AP50"] is not None  # type: ignore[index]
    assert found["model"] == "ab" * 32
    assert "voc07_11point" in printed
    assert "COCO" in printed


def test_every_kind_of_file_gives_the_same_scores(
    command: Command, dumped: Dumped, faulty: DetectionTable, tmp_path: Path
) -> None:
    write_voc_results(faulty, tmp_path / "comp4")
    write_coco_results(faulty, tmp_path / "found.json", dict(enumerate(faulty.classes, 1)))
    sources = (dumped(faulty, "run") / "detections.npz", tmp_path / "comp4", tmp_path / "found.json")
    results = []
    for path in sources:
        code, printed, out = command("eval", f"detections={path}")
        assert code == 0, printed
        results.append({key: value for key, value in metrics_of(out).items() if key.startswith("voc")})
    assert results[0] == results[1] == results[2]
    assert set(results[0]) == {"voc07_11point", "voc07_11point_exact", "voc07_11point_devkit", "voc_area"}


def change(path: Path, **columns: object) -> None:
    """Write a dump's file again with some columns replaced, without checks."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    np.savez(path, **{**arrays, **columns})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("image", "unknown image number 99"),
        ("score", "the score is NaN"),
        ("box", "inverted"),
        ("class", "missing class"),
        ("twice", "expected every image once"),
        ("left out", "missing image"),
        ("text", "expected a dump written by"),
    ],
)
def test_a_malformed_dump_is_one_clear_error(
    command: Command, dumped: Dumped, perfect: DetectionTable, fault: str, expected: str
) -> None:
    path = dumped(perfect, "run") / "detections.npz"
    images, scores, boxes = perfect.image_index.copy(), perfect.scores.copy(), perfect.boxes.copy()
    names = np.array(perfect.image_ids)
    match fault:
        case "image":
            images[3] = 99
            change(path, image_index=images)
        case "score":
            scores[3] = np.nan
            change(path, scores=scores)
        case "box":
            boxes[3] = boxes[3, [2, 1, 0, 3]]
            change(path, boxes=boxes)
        case "class":
            most = perfect.select(perfect.labels < len(perfect.classes))
            columns = {"image_index": most.image_index, "boxes": most.boxes, "scores": most.scores}
            change(path, classes=np.array(perfect.classes[:-1]), labels=most.labels, **columns)
        case "twice":
            change(path, image_ids=np.concatenate((names[:-1], names[:1])))
        case "left out":
            most = perfect.select(perfect.image_index < len(names) - 1)
            columns = {"image_index": most.image_index, "boxes": most.boxes, "scores": most.scores}
            change(path, image_ids=names[:-1], labels=most.labels, **columns)
        case "text":
            path.write_text("not an archive")
    code, printed, _ = command("eval", f"detections={path}")
    assert code == 1
    lines = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in printed
    assert str(path) in lines[0]
    assert expected in lines[0]


def test_missing_files_and_unknown_protocols_are_refused(command: Command, tmp_path: Path) -> None:
    code, printed, _ = command("eval", f"detections={tmp_path / 'nothing'}")
    assert (code, "no such file or folder" in printed) == (1, True)
    code, printed, _ = command("eval", f"detections={tmp_path}", "evaluation.protocols=[voc08]")
    assert (code, "expected a protocol of voc07_11point" in printed) == (2, True)
    code, printed, _ = command("eval")
    assert (code, "detections=PATH" in printed) == (2, True)
