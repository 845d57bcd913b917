"""`detector analyze`: one self-contained page, and the numbers in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from detector.metrics.tables import DetectionTable, TruthTable
from detector.tools.report.drawn_boxes import around
from detector.tools.report.examples import first_with_picture

Command = Callable[..., tuple[int, str, Path]]
Dumped = Callable[[DetectionTable, str], Path]
VOID = {"meta", "br", "image", "rect", "line", "polyline", "polygon"}


class Page(HTMLParser):
    """The elements of a page, checked for correct nesting, and the addresses that it refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}
        self.addresses: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def test_the_page_is_complete_and_self_contained(command: Command, dumped: Dumped, faulty: DetectionTable) -> None:
    folder = dumped(faulty, "run")
    code, printed, out = command("analyze", f"detections={folder}", "evaluation.tensorboard=true")
    assert code == 0, printed
    page = Page((out / "analysis.html").read_text())
    assert "script" not in page.count
    assert all(address.startswith(("#", "data:image/jpeg;base64,")) for address in page.addresses)
    assert page.count["section"] == 9
    assert page.count["image"] >= 4  # at least two worst images and two mistakes
    assert list((out / "tensorboard").iterdir())


def test_known_faults_are_found(command: Command, dumped: Dumped, faulty: DetectionTable, truths: TruthTable) -> None:
    _, _, out = command("analyze", f"detections={dumped(faulty, 'run')}")
    found = json.loads((out / "analysis.json").read_text())
    count = found["errors"]["count"]
    assert (count["classification"], count["localisation"], count["missed"]) == (1, 1, 1)
    confusion = torch.tensor(found["confusion"]["counts"])
    assert int(confusion[1:, 1:].diagonal().sum()) == int((~truths.difficult).sum()) - 3
    worst = int(torch.tensor(truths.image_index[:3]).bincount().argmax())  # the first three objects have the errors
    assert found["worst_images"][0]["image"] == truths.image_ids[worst]


def test_without_detections_there_is_still_a_page(command: Command, dumped: Dumped, perfect: DetectionTable) -> None:
    code, printed, out = command("analyze", f"detections={dumped(perfect.select(perfect.scores > 2), 'none')}")
    assert code == 0, printed
    Page((out / "analysis.html").read_text())


def test_missing_pictures_are_skipped() -> None:
    def read(image: int) -> torch.Tensor:
        if image % 2:
            raise ValueError("no such image")
        return torch.zeros(3, 4, 4, dtype=torch.uint8)

    assert [place for place, _ in first_with_picture([1, 4, 3, 4, 6, 8], read, 3)] == [1, 3, 4]
    assert list(first_with_picture([2], read, 0)) == []


def test_a_region_contains_all_boxes() -> None:
    assert around([(10, 10, 20, 20)], margin=0.5, least=40) == (-5, -5, 35, 35)
    x1, y1, x2, y2 = around([(0, 0, 10, 10), (90, 50, 200, 60)])
    assert x1 < 0 < 200 < x2
    assert y1 < 0 < 60 < y2


@pytest.mark.parametrize("words", [(), ("evaluation.protocol=coco", "detections=x")])
def test_missing_words_of_analyze_are_refused(command: Command, words: tuple[str, ...]) -> None:
    code, printed, _ = command("analyze", *words)
    assert code == 2
    assert printed.count("error: ") == 1
