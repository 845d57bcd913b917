"""`detector compare` and `detector benchmark`: their tables and what they write."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from detector.metrics.tables import DetectionTable
from detector.tools.stopwatch import Stopwatch

Command = Callable[..., tuple[int, str, Path]]
Dumped = Callable[[DetectionTable, str], Path]


def test_two_runs(command: Command, dumped: Dumped, perfect: DetectionTable, faulty: DetectionTable) -> None:
    a, b = dumped(faulty, "a"), dumped(perfect, "b")
    code, printed, out = command("compare", f"a={a}", f"b={b}", "evaluation.resamples=200")
    assert code == 0, printed
    found = json.loads((out / "compare.json").read_text())["compare"]
    assert found["mAP"][1] == 1.0
    assert found["difference"] > 0
    low, high = found["interval95"]
    assert 0 <= low <= found["difference"] <= high
    assert "B - A" in printed


def test_two_protocols_part_at_an_overlap_of_one_half(
    command: Command, dumped: Dumped, perfect: DetectionTable
) -> None:
    boxes = perfect.boxes.copy()
    boxes[0] = (10.0, 10.0, 30.0, 30.0)
    half = replace(perfect, boxes=boxes)
    code, printed, out = command("compare", f"a={dumped(half, 'a')}", "protocols=voc_area,voc_area_devkit")
    assert code == 0, printed
    found = json.loads((out / "compare.json").read_text())
    assert found["protocols"] == ["voc_area", "voc_area_devkit"]
    assert "judged differently" in printed


@pytest.mark.parametrize(
    "words", [(), ("a=x",), ("a=x", "b=y", "protocols=voc_area,voc07_11point"), ("a=x", "protocols=voc_area,coco")]
)
def test_what_compare_needs_is_said(command: Command, words: tuple[str, ...]) -> None:
    code, printed, _ = command("compare", *words)
    assert code == 2
    assert printed.count("error: ") == 1


def test_a_part_does_not_pay_for_its_inner_parts() -> None:
    now = [0.0]

    def spend(amount: float) -> None:
        now[0] += amount

    def outer() -> None:
        spend(1.0)
        place.inner(2.0)
        spend(4.0)

    place = SimpleNamespace(inner=spend, outer=outer)
    watch = Stopwatch(lambda: now[0])
    with watch.wrapped("inner", place, "inner"), watch.wrapped("outer", place, "outer"):
        place.outer()
    assert dict(watch.spent) == {"inner": 2.0, "outer": 5.0}
    assert (place.inner, place.outer) == (spend, outer)


@pytest.mark.parametrize("head", ["fast_rcnn", "rfcn"])
def test_every_part_is_counted(command: Command, head: str) -> None:
    words = ("backbone=resnet18_narrow", f"head={head}", "input.test_short_side=64", "postprocess.score_threshold=0")
    sizes = ("benchmark.height=48", "benchmark.width=64", "benchmark.repeats=2", "benchmark.warmup=1")
    code, printed, out = command("benchmark", *words, *sizes, "trainer.device=cpu")
    assert code == 0, printed
    found = json.loads((out / "benchmark.json").read_text())
    parts = {part["name"]: part for part in found["parts"]}
    weighty = {"backbone", "head per RoI" if head == "fast_rcnn" else "head maps"}
    assert {name for name, part in parts.items() if part["flops"] > 0} == weighty
    assert {name for name, part in parts.items() if part["parameters"] > 0} == weighty
    assert parts["RoI op"]["milliseconds"] > 0
    assert found["latency"]["min"] <= found["latency"]["p50"] <= found["latency"]["p99"]
    assert np.isfinite(found["images_per_s"])
