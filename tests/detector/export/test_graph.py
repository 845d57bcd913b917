"""The graph, its program and its ONNX model against the detector: new sizes; no, one and many proposals."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from detector.compress import fold_norms
from detector.export.graph import DetectorGraph
from detector.export.onnx import export_onnx
from detector.export.program import export_program, save_program
from detector.model import Detector
from tests.detector.export.conftest import (
    COUNTS,
    LIGHT_HEAD,
    SHORT_SIDE,
    SIZES,
    boxes_in,
    detect,
    photograph,
    tiny_detector,
)

INPUTS = [(*size, count) for size, count in zip(SIZES, COUNTS, strict=True)]


def graph_of(detector: Detector, suppress: bool = True) -> DetectorGraph:
    return DetectorGraph(detector, short_side=SHORT_SIDE, suppress=suppress)


def arguments(graph: DetectorGraph, height: int, width: int, count: int) -> tuple[Tensor, ...]:
    return (photograph(height, width), boxes_in(height, width, count))[: len(graph.input_names)]


def assert_same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], longer_side: int) -> None:
    """Compare boxes to 1e-4 of the longer side, scores to 1e-4, and labels exactly.

    Rounding decides the order of detections whose scores are that close. So each detection takes the first one that
    agrees with it, in any order, and the scores themselves must be in order.
    """
    assert [item.shape for item in found] == [item.shape for item in expected]
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-4)
    order = torch.arange(len(found[0]))
    if len(found) == 3:
        agree = (found[0][:, None] - expected[0]).abs().amax(2) <= 1e-4 * longer_side
        agree &= (found[1][:, None] - expected[1]).abs() <= 1e-4
        agree &= found[2][:, None] == expected[2]
        for row in range(len(order)):
            assert agree[row].any(), f"no detection agrees with {[item[row].tolist() for item in found]}"
            order[row] = agree[row].int().argmax()
            agree[:, order[row]] = False
    torch.testing.assert_close(found[0], expected[0][order], rtol=0, atol=1e-4 * longer_side)


@pytest.mark.parametrize("name", ["rfcn", "light_head", "fast_rcnn"])
def test_the_graph_equals_the_detector(name: str, request: pytest.FixtureRequest) -> None:
    detector: Detector = request.getfixturevalue(name)
    graph = graph_of(detector)
    for height, width, count in INPUTS:
        with torch.no_grad():
            found = graph(*arguments(graph, height, width, count))
        expected = detect(detector, photograph(height, width), boxes_in(height, width, count))
        assert_same(found, (expected.boxes, expected.scores, expected.labels), max(height, width))
    assert len(found[0]) > 0


def test_without_nms_every_roi_and_class_is_returned(fast_rcnn: Detector) -> None:
    graph = graph_of(fast_rcnn, suppress=False)
    image, boxes = arguments(graph, 60, 80, 9)
    with torch.no_grad():
        found, scores = graph(image, boxes)
    assert found.shape == (9, 5, 4)
    expected = detect(fast_rcnn, image, boxes)
    label, score = int(expected.labels[0]), expected.scores[0]
    row = int(scores[:, label - 1].argmax())
    assert scores[row, label - 1] == score
    torch.testing.assert_close(found[row, label - 1], expected.boxes[0])


@pytest.mark.parametrize(
    ("name", "suppress", "standard"),
    [
        ("fast_rcnn", True, False),
        pytest.param("fast_rcnn", False, True, marks=pytest.mark.slow),
        pytest.param("light_head", True, False, marks=pytest.mark.slow),
        pytest.param("light_head", False, True, marks=pytest.mark.slow),
        pytest.param("rfcn", True, False, marks=pytest.mark.slow),
        pytest.param("rfcn", False, True, marks=pytest.mark.slow),
    ],
)
def test_the_program_equals_the_graph(
    name: str, suppress: bool, standard: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    graph = graph_of(request.getfixturevalue(name), suppress)
    save_program(graph, tmp_path / "model.pt2", standard=standard)
    program = torch.export.load(tmp_path / "model.pt2")
    custom = [node for node in program.graph.nodes if "fast_rfcn" in str(node.target)]
    assert bool(custom) is not standard
    for height, width, count in INPUTS:
        given = arguments(graph, height, width, count)
        with torch.no_grad():
            assert_same(program.module()(*given), graph(*given), max(height, width))


def test_a_torch_that_cannot_export_is_named(fast_rcnn: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **settings: Any) -> None:
        raise GuardOnDataDependentSymNode("u3 > 1")

    monkeypatch.setattr(torch.export, "export", refuse)
    with pytest.raises(ValueError, match=rf"torch {re.escape(torch.__version__)} cannot export a detector"):
        export_program(graph_of(fast_rcnn))


def session(path: Path) -> Any:
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(str(path), options)


def run_onnx(model: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    names = [item.name for item in model.get_inputs()]
    return tuple(
        torch.from_numpy(item) for item in model.run(None, dict(zip(names, [t.numpy() for t in given], strict=True)))
    )


@pytest.mark.filterwarnings("ignore")  # warnings of the exporter and its packages
@pytest.mark.parametrize(
    ("words", "suppress"),
    [
        pytest.param(
            ("backbone=vgg16", "backbone.width=0.125", "proposals=grid", "postprocess.box_voting=0.75"),
            True,
            id="fast_rcnn",
        ),
        pytest.param(
            ("backbone=resnet18_narrow", "head=rfcn", "head.k=3", "head.channels=32", "proposals=rpn"),
            True,
            id="rfcn",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("backbone=resnet18_narrow", *LIGHT_HEAD, "proposals=rpn"), True, id="light_head", marks=pytest.mark.slow
        ),
        *(
            pytest.param(words, False, id=name, marks=pytest.mark.slow)
            for name, words in {
                "fast_rcnn, no nms": ("backbone=vgg16", "backbone.width=0.125", "proposals=grid"),
                "align": (
                    "backbone=mobilenet_v2",
                    "head=fast_rcnn_align",
                    "backbone.tail_channels=32",
                    "proposals=grid",
                ),
                "rfcn max": ("backbone=resnet18_narrow", "head=rfcn", "head.k=3", "head.pooling=max", "proposals=grid"),
                "light head mean": ("backbone=resnet18_narrow", *LIGHT_HEAD, "head.pooling=mean", "proposals=grid"),
                "deformable_rfcn": (
                    "backbone=resnet18_narrow",
                    "head=deformable_rfcn",
                    "head.k=3",
                    "head.channels=32",
                    "proposals=grid",
                ),
                "deformable_c5": (
                    "backbone=resnet18_narrow",
                    "backbone.deformable_c5=true",
                    "head=rfcn",
                    "head.k=3",
                    "head.channels=32",
                    "proposals=grid",
                ),
                "timm": (
                    "backbone=timm",
                    "backbone.name=efficientnet_b0",
                    "backbone.node=blocks.2",
                    "backbone.deeper_nodes=[blocks.4]",
                    "head=rfcn",
                    "head.k=3",
                    "head.channels=32",
                    "proposals=grid",
                ),
                "rfcn align": ("backbone=mobilenet_v2", "head=rfcn", "head.pooling=align", "proposals=grid"),
            }.items()
        ),
    ],
)
def test_the_onnx_model_equals_the_graph(words: tuple[str, ...], suppress: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    if "backbone=timm" in words:
        pytest.importorskip("timm", reason="the extra `timm` is not installed")
    detector = tiny_detector(*words)
    fold_norms(detector)
    graph = graph_of(detector, suppress)
    path = tmp_path / "model.onnx"
    export_onnx(graph, path, {"classes": ["a", "b"]})
    written = onnx.load(path)
    assert {node.domain for node in written.graph.node} <= {"", "ai.onnx"}
    assert [(item.domain, item.version) for item in written.opset_import if not item.domain] == [("", 18)]
    model = session(path)
    assert json.loads(model.get_modelmeta().custom_metadata_map["classes"]) == ["a", "b"]
    assert tuple(item.name for item in model.get_outputs()) == graph.output_names
    for height, width, count in INPUTS:
        given = arguments(graph, height, width, count)
        with torch.no_grad():
            assert_same(run_onnx(model, given), graph(*given), max(height, width))


@pytest.mark.filterwarnings("ignore")  # the exporter's and its packages' own
def test_an_antialiased_input_is_exported(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnx")
    detector = tiny_detector("backbone=vgg16", "backbone.width=0.125", "proposals=grid", "input.antialias=true")
    graph = graph_of(detector, suppress=False)
    path = tmp_path / "model.onnx"
    export_onnx(graph, path, {})
    given = arguments(graph, 700, 900, 20)
    with torch.no_grad():
        assert_same(run_onnx(session(path), given), graph(*given), 900)


PYRAMID = ["backbone=resnet18_narrow", "neck=fpn", "neck.channels=16", "backbone.tail_channels=32"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["head=fast_rcnn_align", "proposals=rpn_fpn", "proposals.channels=16"],
        [*LIGHT_HEAD, "proposals=grid"],
        ["head=rfcn", "head.k=3", "head.channels=16", "proposals=grid"],
    ],
    ids=["fast_rcnn", "light_head", "rfcn"],
)
def test_a_pyramid_is_exported_to_both_formats(words: list[str], tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    detector = tiny_detector(*PYRAMID, *words)
    graph = graph_of(detector)
    save_program(graph, tmp_path / "model.pt2", standard=False)
    program = torch.export.load(tmp_path / "model.pt2").module()
    export_onnx(graph, tmp_path / "model.onnx", {})
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for height, width, count in INPUTS[1:]:
        inputs = arguments(graph, height, width, count)
        with torch.no_grad():
            expected = graph(*inputs)
            assert_same(program(*inputs), expected, max(height, width))
        fed = {name: value.numpy() for name, value in zip(graph.input_names, inputs, strict=True)}
        found = tuple(torch.from_numpy(item) for item in session.run(None, fed))
        assert_same(found, expected, max(height, width))
