"""`make gpu-check`: builds the kernels on a machine with a GPU, tests them there, measures them, and notes that it did.

It needs what is there and installs nothing: python with torch, torchvision, pytest, hypothesis and setuptools, nvcc, no
network. The packages are mapped to one import name by links in build/gpu, as `make check` does, and everything but the
build runs in that folder: in the root of the repository the folder `detector` alone would be imported. Steps go on
after a failure and share LIMIT seconds; the exit code is 1 if one failed. What came of it is in
docs/benchmarks/gpu-check.json and .md, beside the benchmark's own files.

Run it as a plain file: `python tools/bench/gpu_check.py`. Without a GPU,
`--only build` and `--only "tests on the CPU"` work.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINKS = ROOT / "build" / "gpu"
FOLDER = ROOT / "docs" / "benchmarks"
TAIL = 4000  # characters of a step's output that are kept
LIMIT = 470.0  # seconds, of all steps together

MACHINE = """
import json, torch, torchvision
facts = {"torch": torch.__version__, "torchvision": torchvision.__version__, "cuda": torch.version.cuda}
facts |= {"gpu": torch.cuda.get_device_name(), "capability": "%d.%d" % torch.cuda.get_device_capability()}
print(json.dumps(facts))
"""
KERNELS = """
import json
from detector.ops import native_status
kernels = {s.operator: s.reason or s.kernel for s in native_status() if s.device == "cuda"}
print(json.dumps(kernels))
raise SystemExit(any(kernel != "compiled" for kernel in kernels.values()))
"""


@dataclass(frozen=True, slots=True)
class Step:
    """One command, and what came of it."""

    name: str
    seconds: float
    passed: bool
    output: str


def main(arguments: list[str] | None = None) -> int:
    """Runs the steps; returns the exit code."""
    parser = argparse.ArgumentParser(prog="gpu_check", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each case of the benchmark (default 1)")
    parser.add_argument("--only", default="", help="steps whose name contains this; writes nothing")
    options = parser.parse_args(arguments)
    link_packages()
    end = time.monotonic() + LIMIT
    steps: list[Step] = []

    def step(name: str, command: list[str], limit: float, folder: Path = LINKS, **environment: str) -> None:
        if options.only in name:
            steps.append(run(name, command, min(limit, max(end - time.monotonic(), 1)), folder, environment))

    python = sys.executable
    tests = [python, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), "-o", "filterwarnings=default", "-m", ""]
    on_devices = str(ROOT / "tests/ops/test_devices.py")
    step("machine", [python, "-c", MACHINE], 60)
    # For this GPU alone, unless told otherwise: half the time of the default targets.
    capability = facts_of(steps, "machine").get("capability", "")
    targets = os.environ.get("TORCH_CUDA_ARCH_LIST") or capability or "9.0"
    build = [python, "setup.py", "build_ext", "--inplace"]
    step("build", build, 200, ROOT, DETECTOR_NATIVE="cuda", TORCH_CUDA_ARCH_LIST=targets)
    step("kernels", [python, "-c", KERNELS], 60)
    step("tests on the GPU", [*tests, on_devices, "-k", "cuda"], 120)
    bench = [python, "-m", "detector.tools.bench.operators", "--device", "cuda", "--folder", str(FOLDER)]
    step("benchmark", [*bench, "--seconds", f"{options.seconds:g}"], 180)
    if sanitizer := shutil.which("compute-sanitizer"):
        chosen = [*tests, on_devices, "-k", "cuda and float32 and (tiny-contiguous or 65)"]
        step("compute-sanitizer", [sanitizer, "--error-exitcode", "1", *chosen], 90)
    step("tests on the CPU", [*tests, "-x", str(ROOT / "tests/ops"), "-k", "not cuda"], 180)
    if not options.only:
        write(steps)
    return 0 if steps and all(step.passed for step in steps) else 1


def link_packages() -> None:
    """Makes `detector` importable from build/gpu without installing it."""
    package = LINKS / "detector"
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    for entry in (ROOT / "detector").iterdir():
        (package / entry.name).symlink_to(entry)
    for folder in ("ops", "datasets", "configs", "tools"):
        (package / folder).symlink_to(ROOT / folder)


def run(name: str, command: list[str], limit: float, folder: Path, environment: dict[str, str]) -> Step:
    """Runs a command in a folder for at most so many seconds, and prints what came of it."""
    print(f"== {name}", flush=True)
    start = time.monotonic()
    try:
        result = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(LINKS), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit,
            check=False,
        )
        passed, output = result.returncode == 0, result.stdout
    except subprocess.TimeoutExpired as error:
        partial = error.stdout or b""
        text = partial.decode(errors="replace") if isinstance(partial, bytes) else partial
        passed, output = False, f"{text}\nstopped after {limit:g} s"
    step = Step(name, round(time.monotonic() - start, 1), passed, output[-TAIL:].strip())
    print(f"{step.output}\n{'passed' if passed else 'FAILED'} in {step.seconds} s", flush=True)
    return step


def facts_of(steps: list[Step], name: str) -> dict[str, str]:
    """What a step printed as JSON in its last line; empty if it did not run or came to nothing."""
    for step in steps:
        if step.name == name and step.output.rpartition("\n")[2].startswith("{"):
            facts: dict[str, str] = json.loads(step.output.rpartition("\n")[2])
            return facts
    return {}


def write(steps: list[Step]) -> None:
    """Leaves the results as JSON, and as a table of the steps and one of the kernels."""
    facts, kernels = facts_of(steps, "machine"), facts_of(steps, "kernels")
    date = time.strftime("%Y-%m-%d", time.gmtime())
    FOLDER.mkdir(parents=True, exist_ok=True)
    report = {"date": date, **facts, "kernels": kernels, "steps": [asdict(step) for step in steps]}
    (FOLDER / "gpu-check.json").write_text(json.dumps(report, indent=1) + "\n")
    lines = [
        f"# Check on {facts.get('gpu', 'a GPU that did not answer')}, {date}",
        "",
        f"torch {facts.get('torch', '?')}, torchvision {facts.get('torchvision', '?')}, CUDA {facts.get('cuda', '?')}. "
        "Made by `make gpu-check`.",
        "",
        "| step | result | seconds |",
        "|---|---|---|",
        *(f"| {step.name} | {'passed' if step.passed else 'FAILED'} | {step.seconds} |" for step in steps),
        "",
        "| operator | kernel on CUDA |",
        "|---|---|",
        *(f"| {operator} | {kernel} |" for operator, kernel in kernels.items()),
    ]
    (FOLDER / "gpu-check.md").write_text("\n".join(lines) + "\n")
    print(f"written to {FOLDER / 'gpu-check.json'} and .md")


if __name__ == "__main__":
    sys.exit(main())
