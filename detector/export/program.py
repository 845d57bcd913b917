"""Exports a detector's graph as a `torch.export` program, for images of any size and any number of proposals.

The saved program contains the project's operators, or only PyTorch's own operators.
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
    """Return the program of a graph in evaluation mode, with the project's operators, `fast_rfcn::...`.

    A caller of the program must import `detector.ops` first, which registers these operators.

    Raises:
        ValueError: this torch cannot export shapes of unknown size (2.11 cannot).
    """
    image = torch.zeros(96, 128, 3, dtype=torch.uint8)  # an example for tracing; its content does not matter
    shapes: list[dict[int, Dim]] = [{0: Dim("height", min=1, max=MAX_SIDE), 1: Dim("width", min=1, max=MAX_SIDE)}]
    inputs = [image]
    if "proposals" in graph.input_names:
        inputs.append(torch.tensor([[8.0, 8.0, 64.0, 64.0]]).repeat(4, 1))
        shapes.append({0: Dim("proposals", min=0, max=MAX_PROPOSALS)})
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they concern torch's internals, and a caller cannot act on them
        from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode  # loads slowly

        try:
            return torch.export.export(
                graph.eval(),
                tuple(inputs),
                dynamic_shapes=tuple(shapes),
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
        except GuardOnDataDependentSymNode as error:
            raise ValueError(
                f"torch {torch.__version__} cannot export a detector for images of any size; torch 2.15 can: "
                "install it, or write format=portable"
            ) from error


def save_program(graph: DetectorGraph, path: Path, *, standard: bool) -> None:
    """Write a .pt2 file. `standard` replaces the project's operators by PyTorch's and `torchvision::nms`."""
    program = export_program(graph)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if standard:
            program = program.run_decompositions(standard_operators(graph.detector.preprocess.longest_map_side))
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.export.save(program, path)
