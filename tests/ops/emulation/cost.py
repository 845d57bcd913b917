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
BANDWIDTH = 3.35  # TB/s, of an H100's memory
CLOCK = 1755.0  # MHz, of an H100
SAMPLE = 16  # blocks of a launch
# These run whole: their results decide what the next kernel reads.
WHOLE = b"tabulate sort_tiles sort_boxes mask_rows settle_rows drop_later"
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
    turns_us: float  # the least time for these turns
    barriers: float  # per block
    registers: int | None  # per thread
    spilled: int | None  # bytes per thread


def tracked(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy with the same strides. The emulated device only counts memory of its own allocator.

    That one allocates tensors made after its start, but no storages made without a tensor.
    """
    storage = torch.empty(tensor.untyped_storage().nbytes(), dtype=torch.uint8).untyped_storage()
    storage.copy_(tensor.untyped_storage())
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
    """Yield the kernels of a case."""
    library.emulation_begin(ctypes.c_uint64(0))
    library.emulation_count(ctypes.c_uint64(blocks), WHOLE)
    with Moved() as moved:
        work.ours()
    lines = library.emulation_counted().decode().splitlines()
    library.emulation_count(ctypes.c_uint64(0), b"")
    for kernel, *texts in (line.split("\t") for line in lines):
        values = dict(zip(FIELDS, map(int, texts), strict=True))
        scale = values["all_blocks"] / values["blocks"] / 1e6
        fewest = values["fewest_read"] + values["fewest_written"]
        turns = values["turns_read"] + values["turns_written"]
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
            turns / fewest if fewest else 0.0,
            turns * scale * 1e6 / (PROFILES["h100"][0] * CLOCK),
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
        f"{row.sectors_mb:8.1f}, shared {row.shared_mb:8.1f} in {row.turns:.2f} turns "
        f"({row.turns_us:.1f} us), "
        f"{row.global_accesses:.0f} + {row.shared_accesses:.0f} thousand accesses, {row.barriers:.0f} barriers, "
        f"{row.registers} registers, {row.spilled} spilled"
    )


def as_markdown(rows: list[Row]) -> str:
    """Return the rows as a page of two tables."""
    traffic, inside = [], []
    for row in rows:
        name = [row.case, f"`{row.kernel.partition('<')[0]}`"]
        ratio = sum(each.sectors_mb for each in rows if each.case == row.case) / row.floor_mb
        sizes = (row.floor_mb, row.floor_mb / BANDWIDTH, row.requested_mb, row.sectors_mb, ratio)
        traffic.append([*name, *(f"{value:.1f}" for value in sizes), f"{row.global_accesses:.0f}"])
        known = ["not known" if value is None else str(value) for value in (row.registers, row.spilled)]
        counts = [f"{row.shared_mb:.1f}", f"{row.turns:.2f}", f"{row.turns_us:.1f}"]
        counts += [f"{row.shared_accesses:.0f}", f"{row.barriers:.0f}"]
        inside.append([*name, str(row.blocks), *counts, *known])
    over = {row[0]: float(row[6]) for row in traffic if float(row[6]) > 2 and not row[0].startswith("nms")}
    lines = [
        "# The memory traffic of the CUDA kernels: emulated, not run on a GPU",
        "",
        "`make emulate-cost` runs the kernels on an emulated H100 (`tests/ops/emulation`), with the inputs of",
        "`make bench`. It counts what they read and write, and measures no time. Features are contiguous float32.",
        f"{SAMPLE} random blocks of each launch run, and their counts are multiplied up: estimates. Some kernels run",
        f"whole, because the next kernel depends on them: {', '.join(WHOLE.decode().split())}.",
        "",
        "## Global memory",
        "",
        "- Floor: the size of the operator's inputs and outputs, which it must read and write once. In us: the time",
        f"  that an H100's memory needs for that, at {BANDWIDTH} TB/s.",
        "- Requested: what the threads load and store.",
        "- Sectors: what the hardware moves for that. It moves sectors of 32 bytes, so a warp that reads scattered",
        "  numbers moves more than it requests. Reads that the L1 or L2 cache (50 MB) would serve are included.",
        "- Sectors / floor: for all kernels of the case together.",
        "- Accesses: load and store instructions of warps, in thousands.",
        "",
        *_table(
            "case|kernel|floor, MB|floor, us|requested, MB|sectors, MB|sectors / floor|accesses, thousands",
            traffic,
        ),
        "",
        "## Cases with more than twice the floor",
        "",
        *(f"- {case}: {ratio:.1f} times" for case, ratio in over.items()),
        "",
        "Gradients of means: a block owns 8 x 32 cells and a group of channels, and reads all RoIs that touch these",
        "cells, so a RoI is read several times. To find them, it reads three numbers of each RoI, each in its own",
        "sector. Position-sensitive pooling: a warp stores 32 numbers of one bin, each in its own sector. The caches",
        "serve most of these reads and merge most of these stores, which is not counted.",
        "",
        "nms has no such bound: it compares all pairs of boxes and stores a bit for each. That mask is its traffic.",
        "",
        "## Shared memory, barriers and registers",
        "",
        "- Shared: what the threads load and store in shared memory.",
        "- Turns: an access takes more turns if several threads need the same memory bank. The turns of all accesses,",
        "  divided by the turns without such conflicts; 1.00 is the best. In us: the least time for these turns, one",
        f"  per clock of {CLOCK / 1000} GHz on each of {PROFILES['h100'][0]} processors.",
        "- Barriers: how often a block waits for all its threads, on average.",
        f"- Registers per thread and spilled bytes per thread: reported by nvcc for compute capability {ARCHITECTURE}.",
        "  A spilled byte is a register's content that went to memory.",
        "",
        *_table(
            "case|kernel|blocks|shared, MB|turns|turns, us|accesses, thousands|barriers|registers|spilled bytes", inside
        ),
    ]
    return "\n".join(lines) + "\n"


def _table(columns: str, rows: list[list[str]]) -> Iterator[str]:
    names = columns.split("|")
    yield f"| {' | '.join(names)} |"
    yield "|---" * len(names) + "|"
    yield from (f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
