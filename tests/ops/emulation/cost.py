"""The load of the CUDA kernels on a GPU at the benchmark's sizes, counted without a GPU: `make emulate-cost`.

The emulated device counts, for a sample of the blocks, bytes and 32-byte sectors of global memory and the turns of the
banks of shared memory. nvcc reports the registers and spilled bytes of a kernel. Counts of a sample are scaled to the
whole grid. The floor is the least that an operator must read and write: its inputs and outputs, once.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ["DETECTOR_NATIVE"] = "none"

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from detector.ops import compile as kernels
from detector.tools.bench.op_cases import CASES, Case, Work

sys.path.insert(0, str(Path(__file__).parent))
from check import PROFILES

from build import CSRC, ROOT, build, sources, with_one_dtype, write_sources

FOLDER = ROOT / "docs" / "benchmarks"
ARCHITECTURE = "9.0"  # of an H100
SAMPLE = 16  # blocks of a launch
LARGE = re.compile(r"\[1, 392,|\[1, 1029.*2000 RoIs|backward.*2000|^batched")  # sizes that add nothing new
FIELDS = ("blocks", "all_blocks", "barriers", "accesses_global", "accesses_shared")
FIELDS += ("read", "written", "sectors_read", "sectors_written")
FIELDS += ("shared_read", "shared_written", "turns_read", "turns_written", "fewest_read", "fewest_written")


@dataclass(frozen=True, slots=True)
class Row:
    """One kernel of one case."""

    case: str
    floor_mb: float  # inputs and outputs of the case
    kernel: str
    blocks: int
    requested_mb: float  # of global memory, by its threads
    sectors_mb: float  # touched by its warps
    shared_mb: float
    global_accesses: float  # loads and stores of warps, in thousands
    shared_accesses: float
    turns: float  # of the banks of shared memory, relative to those without conflicts
    barriers: float  # per block
    registers: int | None  # per thread
    spilled: int | None  # bytes per thread


def tracked(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy with the same strides. The emulated device only counts memory that is allocated after its start."""
    storage = tensor.untyped_storage().clone()
    return tensor.new_empty(0).set_(storage, tensor.storage_offset(), tensor.size(), tensor.stride())


class Moved(TorchDispatchMode):
    """Sums the bytes of the operators' inputs and outputs. The operators read copies of their inputs, which count."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        ours = func.namespace == "fast_rfcn"
        if ours:
            args = [tracked(each) if isinstance(each, torch.Tensor) else each for each in args]
        results = func(*args, **(kwargs or {}))
        if ours:
            given = [*args, *(results if isinstance(results, tuple) else (results,))]
            self.bytes += sum(each.untyped_storage().nbytes() for each in given if isinstance(each, torch.Tensor))
        return results


def main() -> int:
    """Count, print and write. Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name or size contains this; writes nothing")
    parser.add_argument("--blocks", type=int, default=SAMPLE, help=f"of a launch that run (default {SAMPLE})")
    parser.add_argument("--csrc", type=Path, default=CSRC, help="the kernels' folder (default ops/csrc)")
    parser.add_argument("--no-registers", action="store_true", help="leaves nvcc out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = {f"{case.name} {case.size}": case for case in CASES if case.headline}
    chosen = [case for name, case in names.items() if options.only in name and not LARGE.search(name)]
    # Before the library is loaded, so that the forward pass before a gradient uses PyTorch, which is fast.
    works = [(case, case.prepare(torch.device("cpu"))) for case in chosen]
    texts = with_one_dtype(sources(options.csrc), "float")  # all cases are float32
    known = {} if options.no_registers else resources(texts)
    path = build(texts)
    torch.ops.load_library(path)
    library = ctypes.CDLL(str(path))
    library.emulation_counted.restype = ctypes.c_char_p
    library.emulation_profile(*PROFILES["h100"])
    rows = []
    for case, work in works:
        for row in count(library, case, work, options.blocks, known):
            rows.append(row)
            print(line(row), flush=True)
    if not options.only:
        FOLDER.mkdir(parents=True, exist_ok=True)
        (FOLDER / "ops-cuda-emulated.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
        (FOLDER / "ops-cuda-emulated.md").write_text(as_markdown(rows))
        print(f"written to {FOLDER / 'ops-cuda-emulated.json'} and .md")
    return 0


def count(
    library: ctypes.CDLL, case: Case, work: Work, blocks: int, known: dict[str, tuple[int, int]]
) -> Iterator[Row]:
    """Yield the kernels of a case. Kernels of nms depend on each other's results, so all their blocks run."""
    library.emulation_begin(ctypes.c_uint64(0))
    library.emulation_count(ctypes.c_uint64(1 << 40 if case.name.startswith("nms") else blocks))
    with Moved() as moved:
        work.ours()
    lines = library.emulation_counted().decode().splitlines()
    library.emulation_count(ctypes.c_uint64(0))
    for kernel, *texts in (line.split("\t") for line in lines):
        values = dict(zip(FIELDS, map(int, texts), strict=True))
        scale = values["all_blocks"] / values["blocks"] / 1e6
        fewest = values["fewest_read"] + values["fewest_written"]
        registers, spilled = known.get(kernel, (None, None))
        yield Row(
            f"{case.name} {case.size}",
            moved.bytes / 1e6,
            kernel,
            values["all_blocks"],
            (values["read"] + values["written"]) * scale,
            32 * (values["sectors_read"] + values["sectors_written"]) * scale,
            (values["shared_read"] + values["shared_written"]) * scale,
            values["accesses_global"] * scale * 1e3,
            values["accesses_shared"] * scale * 1e3,
            (values["turns_read"] + values["turns_written"]) / fewest if fewest else 0.0,
            values["barriers"] / values["blocks"],
            registers,
            spilled,
        )


def resources(texts: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """Return registers and spilled bytes of every kernel by name, as nvcc reports them. Empty without nvcc."""
    try:
        nvcc, torch_folder = str(kernels.cuda_toolkit() / "bin/nvcc"), kernels.torch_folder()
    except kernels.CannotBuildError as reason:
        print(f"no registers: {reason}")
        return {}
    includes = [f"-isystem={torch_folder / name}" for name in ("include", "include/torch/csrc/api/include")]
    flags = [*kernels.STABLE_ABI, *kernels.CUDA_FLAGS, "-Xcompiler", ",".join(kernels.HOST_FLAGS), "--resource-usage"]
    flags += kernels.architecture_flags([ARCHITECTURE])
    borrowed = map(str, sorted(torch_folder.parent.glob("nvidia/cu*/include")))
    environment = {**os.environ, "CPATH": os.pathsep.join(filter(None, [os.environ.get("CPATH"), *borrowed]))}

    def compiler_report(source: Path) -> str:
        command = [nvcc, *flags, *includes, "-c", str(source), "-o", str(source.with_suffix(".o"))]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if result.returncode != 0:
            raise SystemExit(f"{source.name} does not compile: {result.stderr[:500]}")
        return subprocess.run(["c++filt"], input=result.stderr, capture_output=True, text=True, check=True).stdout

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        write_sources(texts, Path(folder))
        reports = list(pool.map(compiler_report, sorted(Path(folder).glob("cuda/*.cu"))))
    return parsed_resources("\n".join(reports))


def parsed_resources(text: str) -> dict[str, tuple[int, int]]:
    """Parse the report of ptxas, with readable names: kernel -> (registers, spilled bytes)."""
    found: dict[str, tuple[int, int]] = {}
    kernel, spilled = "", 0
    for each in text.splitlines():
        if entry := re.search(r"Compiling entry function '(?:void )?(.+?)\(", each):
            kernel, spilled = entry[1].replace("fast_rfcn::", ""), 0
        elif stores := re.search(r"(\d+) bytes spill stores", each):
            spilled = int(stores[1])
        elif registers := re.search(r"Used (\d+) registers", each):
            found[kernel] = (int(registers[1]), spilled)
    return found


def line(row: Row) -> str:
    name = row.kernel.partition("<")[0]
    return (
        f"{row.case:62} {name:20} floor {row.floor_mb:7.1f} MB, requested {row.requested_mb:8.1f}, sectors "
        f"{row.sectors_mb:8.1f}, shared {row.shared_mb:8.1f} in {row.turns:.2f} turns, "
        f"{row.global_accesses:.0f} + {row.shared_accesses:.0f} thousand accesses, {row.barriers:.0f} barriers, "
        f"{row.registers} registers, {row.spilled} spilled"
    )


def as_markdown(rows: list[Row]) -> str:
    """Return the rows as a table."""
    columns = ("case", "kernel", "blocks", "floor", "requested", "sectors", "shared", "turns")
    columns += ("global accesses", "shared accesses", "barriers")
    lines = [
        "# What the CUDA kernels ask of a GPU: emulated, not run",
        "",
        f"Made by `make emulate-cost` for an H100 (compute capability {ARCHITECTURE}).",
        "",
        "- Floor: MB of the operator's inputs and outputs, once.",
        "- Requested: MB of global memory that threads load and store. Sectors: MB of the 32-byte parts that loads and",
        "  stores of warps touch, before any cache.",
        "- Shared: MB of shared memory that threads load and store. Turns: of its banks, for each that there would be",
        "  without conflicts.",
        "- Accesses: loads and stores of warps, of global and of shared memory, in thousands.",
        "- Barriers: those that a block waits at, on average.",
        "",
        f"Counted on {SAMPLE} blocks of each launch (nms: on all), multiplied up.",
        "",
        f"| {' | '.join((*columns, 'registers', 'spilled bytes'))} |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for row in rows:
        known = ["not known" if value is None else value for value in (row.registers, row.spilled)]
        counts = [f"{value:.1f}" for value in (row.floor_mb, row.requested_mb, row.sectors_mb, row.shared_mb)]
        counts += [f"{row.turns:.2f}", f"{row.global_accesses:.0f}", f"{row.shared_accesses:.0f}"]
        cells = [row.case, f"`{row.kernel}`", row.blocks, *counts, f"{row.barriers:.0f}", *known]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
