"""`detector compare` and `detector benchmark`: their tables and files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from detector.build import build_detector
from detector.configs.compose import load_config
from detector.configs.schema import Backend
from detector.metrics.tables import DetectionTable
from detector.tools.bench import backends as backends
from detector.tools.bench.stopwatch import Stopwatch
from detector.tools.commands.benchmark import noise_batch

Command = Callable[..., tuple[int, str, Path]]
Dumped = Callable[[DetectionTable, str], Path]


def test_two_runs_are_compared(
    command: Command, dumped: Dumped, perfect: DetectionTable, faulty: DetectionTable
) -> None:
    a, b = dumped(faulty, "a"), dumped(perfect, "b")
    code, printed, out = command("compare", f"a={a}", f"b={b}", "evaluation.resamples=200")
    assert code == 0, printed
    found = json.loads((out / "compare.json").read_text())["compare"]
    assert found["mAP"][1] == 1.0
    assert found["difference"] > 0
    low, high = found["interval95"]
    assert 0 <= low <= found["difference"] <= high
    assert "B - A" in printed


def test_two_protocols_differ_at_an_overlap_of_one_half(
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
def test_missing_words_of_compare_are_refused(command: Command, words: tuple[str, ...]) -> None:
    code, printed, _ = command("compare", *words)
    assert code == 2
    assert printed.count("error: ") == 1


def test_the_time_of_a_part_excludes_its_inner_parts() -> None:
    now = [0.0]

    def spend(amount: float) -> None:
        now[0] += amount

    def outer() -> None:
        spend(1.0)
        parts.inner(2.0)
        spend(4.0)

    parts = SimpleNamespace(inner=spend, outer=outer)
    watch = Stopwatch(lambda: now[0])
    with watch.wrapped("inner", parts, "inner"), watch.wrapped("outer", parts, "outer"):
        parts.outer()
    assert dict(watch.spent) == {"inner": 2.0, "outer": 5.0}
    assert (parts.inner, parts.outer) == (spend, outer)


SIZES = ("benchmark.height=48", "benchmark.width=64", "benchmark.repeats=2", "benchmark.warmup=1")


@pytest.mark.parametrize(
    ("head", "of_head"),
    [
        (["head=fast_rcnn"], {"head per RoI"}),
        (["head=fast_rcnn", "head.channels=8", "backbone.tail=fc"], {"head maps", "head per RoI"}),
        (["head=light_head", "head.k=3", "head.mid_channels=8", "head.fc_channels=32"], {"head maps", "head per RoI"}),
        (["head=rfcn"], {"head maps"}),
    ],
    ids=["fast_rcnn", "reduced", "light_head", "rfcn"],
)
def test_every_part_is_measured(command: Command, head: list[str], of_head: set[str]) -> None:
    words = ("backbone=resnet18_narrow", *head, "input.test_short_side=64", "postprocess.score_threshold=0")
    code, printed, out = command("benchmark", *words, *SIZES, "benchmark.backends=[]", "trainer.device=cpu")
    assert code == 0, printed
    found = json.loads((out / "benchmark.json").read_text())
    parts = {part["name"]: part for part in found["parts"]}
    with_weights = {"backbone", *of_head}
    assert {name for name, part in parts.items() if part["flops"] > 0} == with_weights
    assert {name for name, part in parts.items() if part["parameters"] > 0} == with_weights
    assert parts["RoI op"]["milliseconds"] > 0
    assert found["latency"]["min"] <= found["latency"]["p50"] <= found["latency"]["p99"]
    assert np.isfinite(found["images_per_s"])


NORMS = ("backbone=mobilenet_v2", "head=rfcn", "head.channels=32", "proposals=grid", "input.test_short_side=64")
NO_LAYERS = "this model has no Fast R-CNN tail of fully connected layers"
LAYERS = ("backbone=vgg16", "backbone.width=0.125", "proposals=grid", "input.test_short_side=64")


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        (
            NORMS,
            dict.fromkeys(("fc layers by SVD", "fc layers in int8"), NO_LAYERS),
        ),
        (LAYERS, {"norms folded": "this model has no frozen batch norms"}),
    ],
    ids=["rfcn", "fast_rcnn"],
)
def test_backends_are_compared(command: Command, words: tuple[str, ...], absent: dict[str, str]) -> None:
    code, printed, out = command(
        "benchmark", *words, *SIZES, "benchmark.backends=[folded,bf16,svd,int8]", "trainer.device=cpu"
    )
    assert code == 0, printed
    laps = {lap.pop("name"): lap for lap in json.loads((out / "benchmark.json").read_text())["backends"]}
    assert list(laps) == ["PyTorch, eager", "norms folded", "bf16", "fc layers by SVD", "fc layers in int8"]
    assert laps["PyTorch, eager"]["ratio"] == 1
    for name, lap in laps.items():
        assert (
            (lap["milliseconds"] is None) == (lap["ratio"] is None) == (lap["detections"] is None) == (name in absent)
        )
        if name in absent:
            assert lap["note"] == f"not available: {absent[name]}"
            assert absent[name] in printed


def test_a_backend_that_fails_gets_a_note(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("no such thing\nand a long story")

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(backends, "export_program", broken)
    code, printed, out = command(
        "benchmark", *LAYERS, *SIZES, "benchmark.backends=[program,onnx]", "trainer.device=cpu"
    )
    assert code == 0, printed
    eager, program, onnx = json.loads((out / "benchmark.json").read_text())["backends"]
    assert eager["milliseconds"] > 0
    assert program["note"] == "not available: no such thing"
    assert onnx["note"] == "not available: needs onnxruntime: pip install 'fast-rfcn[export]'"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # warnings of the compiler and the exporter
def test_all_backends_detect_the_same() -> None:
    """Compiled, exported or in ONNX Runtime, a model gives as many detections, and its weights do not change."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    config = load_config([*NORMS, *SIZES, "postprocess.score_threshold=0.045"])
    detector = build_detector(config, 20).eval()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    made = backends.Backends(detector, noise_batch(config), 64, torch.device("cpu"))
    laps = {
        lap.name: lap
        for lap in backends.side_by_side(made, [Backend.folded, Backend.compiled, Backend.program, Backend.onnx], 1)
    }
    assert {lap.note for lap in laps.values() if lap.milliseconds is None} == set()
    assert len({lap.detections for lap in laps.values()}) == 1
    assert laps["PyTorch, eager"].detections
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())
