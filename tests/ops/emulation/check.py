"""Run the CUDA operators on the emulated device against the PyTorch kernels: `python tests/ops/emulation/check.py`.

Without a library it builds one. A failing case prints its number; `--first NUMBER --cases 1` repeats it. Thread order,
poison and device size also depend on the case. One call in four is repeated in another order and must give the same
bits.
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ["DETECTOR_NATIVE"] = "none"

import torch

sys.path.insert(0, str(Path(__file__).parent))
from build import build, sources
from cases import DTYPES, GROUPS, Check, Draw

# Processors, shared memory of a block and of a processor: an H100, and the smallest device.
PROFILES = {"h100": (132, 232448, 233472), "small": (1, 49152, 65536)}
ADDRESS = re.compile(r"\[(0x[0-9a-f]+)\]")


class Emulator:
    """The emulated library, loaded once per process."""

    def __init__(self, library: Path) -> None:
        self.path = library
        torch.ops.load_library(library)
        self.library = ctypes.CDLL(str(library))
        self.library.emulation_launched.restype = self.library.emulation_left.restype = ctypes.c_char_p
        self.library.emulation_unwritten.restype = ctypes.c_int64

    def profile(self, name: str) -> None:
        self.library.emulation_profile(*PROFILES[name])

    def run(self, check: Check, seed: int) -> tuple[str, Any]:
        """Return a description of the fault, or "", and the results."""
        if check.refused and not self.has(check.operator):
            return "", None
        self.library.emulation_begin(ctypes.c_uint64(seed))
        try:
            results = getattr(torch.ops.fast_rfcn, check.operator).default(*check.arguments)
        except RuntimeError as error:
            left = self.library.emulation_left().decode()
            if check.refused and not left and re.search(check.refused, str(error)):
                return "", None
            return left or self.with_lines(str(error).partition("\nException raised")[0]), None
        if check.refused:
            return f"this call was not refused: {check.refused}", None
        if left := self.library.emulation_left().decode():
            return left, results
        for result in results if isinstance(results, tuple) else (results,):
            size = result.numel() * result.element_size()
            if size and self.library.emulation_unwritten(ctypes.c_void_p(result.data_ptr()), ctypes.c_size_t(size)):
                return "a part of the result was never written", results
        return check.difference(results), results

    def has(self, operator: str) -> bool:
        """Return whether the library has this operator; else a call runs the PyTorch kernel."""
        return torch._C._dispatch_has_kernel_for_dispatch_key(f"fast_rfcn::{operator}", "CPU")

    def with_lines(self, text: str) -> str:
        """Replace addresses by files and lines."""

        def line(found: re.Match[str]) -> str:
            command = ["addr2line", "-s", "-e", str(self.path), found[1]]
            return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

        return ADDRESS.sub(line, text)

    def launched(self) -> dict[str, int]:
        """Return the kernels that ran, with their numbers of blocks."""
        lines = self.library.emulation_launched().decode().splitlines()
        return {name: int(blocks) for name, _, blocks in (line.partition("\t") for line in lines)}


def same_bits(first: Any, second: Any) -> bool:
    pairs = zip(*(each if isinstance(each, tuple) else (each,) for each in (first, second)), strict=True)
    return all(torch.equal(bits(a), bits(b)) for a, b in pairs)


def bits(values: torch.Tensor) -> torch.Tensor:
    # clone, not contiguous(), which leaves the stride of a dimension of size 1 as it is; view refuses that.
    return values.clone(memory_format=torch.contiguous_format).view(torch.uint8)


def main() -> int:
    """Return 1 if a case failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", type=Path, help="as build.py made it (default: of the sources as they are)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--cases", type=int, default=400, help="how many")
    parser.add_argument("--numbers", default="", help="these cases in place of the first ones, such as 4,70,71")
    parser.add_argument("--only", default="", help=f"one of {', '.join(GROUPS)}")
    parser.add_argument("--dtype", choices=[str(dtype).removeprefix("torch.") for dtype in DTYPES])
    parser.add_argument("--stop", type=int, default=10, help="after so many failures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    emulator = Emulator(options.library or build(sources()))
    dtypes = (getattr(torch, options.dtype),) if options.dtype else DTYPES
    passed: collections.Counter[str] = collections.Counter()
    seconds: collections.Counter[str] = collections.Counter()
    failures = 0
    numbers = [int(each) for each in options.numbers.split(",") if each]
    numbers = numbers or list(range(options.first, options.first + options.cases))
    for number in numbers:
        group = options.only or list(GROUPS)[number % len(GROUPS)]
        profile = random.Random(number).choice(list(PROFILES))
        emulator.profile(profile)
        draw = Draw(number, dtypes)
        for i, check in enumerate(GROUPS[group](draw)):
            start = time.perf_counter()
            wrong, results = emulator.run(check, 100 * number + i)
            if not wrong and not check.refused and random.Random(100 * number + i).random() < 0.25:
                wrong, again = emulator.run(check, 100 * number + i + 50)
                wrong = wrong or ("" if same_bits(results, again) else "other bits in another order of threads")
            seconds[check.operator] += time.perf_counter() - start
            if wrong:
                failures += 1
                what = f"{check.operator}, {profile}, {draw.dtype}, {draw.layout}"
                print(f"FAILED case {number} ({what}): {wrong}", flush=True)
                break
            passed[check.operator] += 1
        if failures >= options.stop:
            break
    for operator, count in sorted(passed.items()):
        print(f"{operator:24}{count:6} calls agree{seconds[operator]:8.1f} s")
    print(f"{len(emulator.launched())} kernels ran, {failures} cases failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
