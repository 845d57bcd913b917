"""Compares one model on several backends: eager PyTorch, folded norms, compiled, exported, bf16, compressed.

Each backend is built and run once. If the model or the machine does not support it, its row gives the reason. The other
backends run in turn on the same images, from the pixels of a photograph to boxes in these pixels.
"""

from __future__ import annotations

import copy
import logging
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from detector.backbones.norms import FrozenBatchNorm2d
from detector.compress import SVD, fold_norms, linear_layers
from detector.configs.schema import Backend
from detector.engine.compile import compile_parts
from detector.engine.precision import autocast
from detector.export.graph import DetectorGraph
from detector.export.onnx import export_onnx
from detector.export.program import export_program
from detector.model import Detector
from detector.quantize import quantize_layers
from detector.structures import Batch
from detector.tools.bench.interleaved import interleaved, milliseconds, ratio

log = logging.getLogger("detector")

Run = Callable[[], int]  # detects objects in the batch and returns their number

EAGER = "PyTorch, eager"
NAMES = {
    Backend.folded: "norms folded",
    Backend.compiled: "torch.compile",
    Backend.program: "exported program",
    Backend.onnx: "ONNX Runtime",
    Backend.bf16: "bf16",
    Backend.svd: "fc layers by SVD",
    Backend.int8: "fc layers in int8",
}
# The first layer keeps 1/4 of its width, the others 1/16: 1024 and 256 of 4096, as published.
RANKS = (4, 16)


@dataclass(frozen=True, slots=True)
class Lap:
    """The time of a backend for the batch, or the reason why there is none."""

    name: str
    milliseconds: float | None  # median
    ratio: float | None  # to eager PyTorch: the median of the ratios within a round
    detections: int | None  # in the batch
    note: str


class Backends:
    """One model on several backends, on one batch. The backends share weights and modules if possible."""

    def __init__(self, detector: Detector, batch: Batch, short_side: int, device: torch.device) -> None:
        """`detector` is in evaluation mode and is not changed. The images are resized to `short_side`."""
        self.detector, self.batch, self.short_side, self.device = detector, batch, short_side, device
        self.has_norms = any(isinstance(module, FrozenBatchNorm2d) for module in detector.modules())
        # Without norms there is nothing to fold, so do not copy a large model.
        self.folded = copy.deepcopy(detector) if self.has_norms else detector
        fold_norms(self.folded)

    def eager(self) -> Run:
        """Return the detector as it is, without compiling."""
        return _detecting(self.detector, self.batch)

    def make(self, backend: Backend) -> tuple[Run, str]:
        """Build a backend and return it with a note. Raises ValueError if it is not supported, and torch's errors."""
        base = "norms folded" if self.has_norms else ""
        whole = (
            ""
            if getattr(self.detector.head, "distinct", None) is None
            else "RoIs of the same cells are pooled separately"
        )
        match backend:
            case Backend.folded:
                if not self.has_norms:
                    raise ValueError("this model has no frozen batch norms")
                return _detecting(self.folded, self.batch), "as predict and load_detector run it"
            case Backend.compiled:
                twin = _twin(self.folded)
                compile_parts(twin)
                return _detecting(twin, self.batch), _joined("backbone and tail", base)
            case Backend.program:
                self._on_cpu()
                program = export_program(self._graph()).module()
                return self._by_image(lambda *given: len(program(*given)[0])), _joined(base, whole)
            case Backend.onnx:
                self._on_cpu()
                return self._by_image(_onnx(self._graph())), _joined(base, whole)
            case Backend.bf16:
                run = _detecting(self.folded, self.batch)

                def narrow() -> int:
                    with autocast(self.device, "bf16"):
                        return run()

                return narrow, _joined("autocast", base)
            case Backend.svd:
                twin, ranks = _compressed(self.folded)
                return _detecting(twin, self.batch), _joined(f"ranks {', '.join(map(str, ranks))}", base)
            case Backend.int8:
                twin = _twin(self.folded)
                quantize_layers(_tail(twin))
                return _detecting(twin, self.batch), base

    def _graph(self) -> DetectorGraph:
        return DetectorGraph(self.folded, short_side=self.short_side, suppress=True)

    def _on_cpu(self) -> None:
        if self.device.type != "cpu":
            raise ValueError("exports are timed on CPUs only (trainer.device=cpu)")

    def _by_image(self, run: Callable[..., int]) -> Run:
        """Run the batch with a function of one image [H, W, 3] and, if the batch has them, its proposals [P, 4]."""
        inputs: list[tuple[Tensor, ...]] = [(image.permute(1, 2, 0).contiguous(),) for image in self.batch.images]
        if self.batch.proposals is not None:
            inputs = [(*item, given.boxes) for item, given in zip(inputs, self.batch.proposals, strict=True)]

        def detect() -> int:
            with torch.no_grad():
                return sum(run(*item) for item in inputs)

        return detect


def side_by_side(backends: Backends, chosen: list[Backend], rounds: int) -> tuple[Lap, ...]:
    """Time the chosen backends and eager PyTorch in turn, for `rounds` rounds after a warm-up round."""
    runs: dict[str, Run] = {EAGER: backends.eager()}
    counts, notes = {EAGER: runs[EAGER]()}, {EAGER: ""}
    for backend in chosen:
        name = NAMES[backend]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # warnings of compilers and exporters, which the user cannot fix
                run, notes[name] = backends.make(backend)
                counts[name] = run()  # compilers fail at the first call
            runs[name] = run
        except Exception as error:  # compilers and exporters may raise any error
            log.debug("%s", name, exc_info=True)
            notes[name] = "not available: " + _first_line(error)
    times = interleaved(runs, rounds, backends.device)
    return tuple(
        Lap(name, milliseconds(times[name]), ratio(times[name], times[EAGER]), counts[name], note)
        if name in times
        else Lap(name, None, None, None, note)
        for name, note in notes.items()
    )


def table(laps: tuple[Lap, ...]) -> str:
    """The results as aligned plain text, a row for each backend."""
    lines = [f"{'backend':<18}{'ms':>10}{'to eager':>10}{'detections':>12}  note"]
    for lap in laps:
        values = f"{'-':>10}{'-':>10}{'-':>12}"
        if lap.milliseconds is not None:
            values = f"{lap.milliseconds:10.2f}{lap.ratio:10.3f}{lap.detections:12}"
        lines.append(f"{lap.name:<18}{values}  {lap.note}".rstrip())
    return "\n".join(lines)


def _detecting(detector: Detector, batch: Batch) -> Run:
    return lambda: sum(len(item) for item in detector.detect(batch))


def _twin(detector: Detector) -> Detector:
    """Copy the modules, which may then be compiled or replaced, but share their tensors."""
    tensors: list[Tensor] = [*detector.parameters(), *detector.buffers()]
    return copy.deepcopy(detector, {id(tensor): tensor for tensor in tensors})


def _compressed(detector: Detector) -> tuple[Detector, tuple[int, ...]]:
    twin = _twin(detector)
    tail = _tail(twin)
    widths = [min(layer.in_features, layer.out_features) for layer in linear_layers(tail).values()]
    ranks = tuple(max(1, width // RANKS[min(number, 1)]) for number, width in enumerate(widths))
    SVD(tail).truncate(tail, ranks)
    return twin.eval(), ranks


def _tail(detector: Detector) -> nn.Module:
    tail = getattr(detector.head, "tail", None)
    if not isinstance(tail, nn.Module) or not linear_layers(tail):
        raise ValueError("this model has no Fast R-CNN tail of fully connected layers")
    return tail


def _onnx(graph: DetectorGraph) -> Callable[..., int]:
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError("needs onnxruntime: pip install 'fast-rfcn[export]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(graph, path, {})
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(*given: Tensor) -> int:
        inputs = {name: item.numpy() for name, item in zip(graph.input_names, given, strict=True)}
        return len(session.run(["scores"], inputs)[0])

    return run


def _joined(*notes: str) -> str:
    return ", ".join(note for note in notes if note)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:160]
