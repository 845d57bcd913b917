"""A detector's graph as a `torch.export` program, for images of any size and any number of proposals.

The program is saved as it is, or with PyTorch's own operators in place of the project's.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch.export import Dim, ExportedProgram

from detector.export.graph import MAX_SIDE, DetectorGraph
from detector.export.standard import standard_operators

MAX_PROPOSALS = 1 << 20


def export_program(graph: DetectorGraph) -> ExportedProgram:
    """The program of a graph in evaluation mode; the project's operators stay as they are, `fast_rfcn::...`.

    Whoever runs it imports `detector.ops` first, which brings these operators.
    """
    image = torch.zeros(96, 128, 3, dtype=torch.uint8)  # what is traced, of no importance
    shapes: list[dict[int, Dim]] = [{0: Dim("height", min=1, max=MAX_SIDE), 1: Dim("width", min=1, max=MAX_SIDE)}]
    inputs = [image]
    if "proposals" in graph.input_names:
        inputs.append(torch.tensor([[8.0, 8.0, 64.0, 64.0]]).repeat(4, 1))
        shapes.append({0: Dim("proposals", min=0, max=MAX_PROPOSALS)})
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own making, and nothing that a caller could do about
        return torch.export.export(
            graph.eval(),
            tuple(inputs),
            dynamic_shapes=tuple(shapes),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def save_program(graph: DetectorGraph, path: Path, *, standard: bool) -> None:
    """Writes a .pt2 file; `standard` replaces the project's operators by PyTorch's own and `torchvision::nms`."""
    program = export_program(graph)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if standard:
            program = program.run_decompositions(standard_operators(graph.detector.preprocess.longest_map))
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.export.save(program, path)
