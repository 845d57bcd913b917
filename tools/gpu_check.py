"""`make gpu-check`: builds the kernels on a machine with a GPU, tests them there, measures them, and notes that it did.

It needs what is there and installs nothing: python with torch, torchvision and pytest, nvcc, no network. The packages
are mapped to one import name by links in build/gpu, as `make check` does. Steps go on after a failure; the exit code
is 1 if one failed. What came of it is in docs/benchmarks/gpu-check.json and .md, beside the benchmark's own files.

Run it as a plain file: `python tools/gpu_check.py`.
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

ROOT = Path(__file__).resolve().parent.parent
LINKS = ROOT / "build" / "gpu"
FOLDER = ROOT / "docs" / "benchmarks"
TAIL = 4000  # characters of a step's output that are kept

DESCRIBE = """
import json, torch
from detector.ops import native_status
print(json.dumps({
    "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda,
    "kernels": {s.operator: s.reason or s.kernel for s in native_status() if s.device == "cuda"}}))
"""


@dataclass(frozen=True, slots=True)
class Step:
    """One command, and what came of it."""

    name: str
    seconds: float
    passed: bool
    output: str


def main(arguments: list[str] | None = None) -> int:
    """Runs all steps; returns the exit code."""
    parser = argparse.ArgumentParser(prog="gpu_check", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each case of the benchmark (default 1)")
    options = parser.parse_args(arguments)
    link_packages()
    python, pytest = sys.executable, [sys.executable, "-m", "pytest", "-q", "-o", "filterwarnings=default", "-m", ""]
    steps = [
        run("build", [python, "setup.py", "build_ext", "--inplace"], 150, DETECTOR_NATIVE="cuda"),
        run("kernels", [python, "-c", DESCRIBE], 60),
        run("tests on the GPU", [*pytest, "tests/ops/test_devices.py"], 120),
        run("tests on the CPU", [*pytest, "-x", "tests/ops", "--ignore=tests/ops/test_devices.py"], 120),
    ]
    if sanitizer := shutil.which("compute-sanitizer"):
        chosen = [*pytest, "tests/ops/test_devices.py", "-k", "cuda and float32 and contiguous and (tiny or 65)"]
        steps.append(run("compute-sanitizer", [sanitizer, "--error-exitcode", "1", *chosen], 90))
    bench = [python, "-m", "detector.tools.bench_ops", "--device", "cuda", "--seconds", f"{options.seconds:g}"]
    steps.append(run("benchmark", bench, 180))
    write(steps)
    return 0 if all(step.passed for step in steps) else 1


def link_packages() -> None:
    """Makes `detector` importable from build/gpu without installing it."""
    package = LINKS / "detector"
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    for entry in (ROOT / "detector").iterdir():
        (package / entry.name).symlink_to(entry)
    for folder in ("ops", "datasets", "configs", "tools"):
        (package / folder).symlink_to(ROOT / folder)


def run(name: str, command: list[str], limit: float, **environment: str) -> Step:
    """Runs a command for at most so many seconds, and prints what came of it."""
    print(f"== {name}", flush=True)
    start = time.monotonic()
    try:
        result = subprocess.run(
            command,
            cwd=ROOT,
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


def write(steps: list[Step]) -> None:
    """Leaves the results as JSON, and as the line for the table of docs/benchmarks/README.md."""
    device = next((step.output.splitlines()[-1] for step in steps if step.name == "kernels" and step.passed), "{}")
    facts = json.loads(device)
    date = time.strftime("%Y-%m-%d", time.gmtime())
    FOLDER.mkdir(parents=True, exist_ok=True)
    report = {"date": date, **facts, "steps": [asdict(step) for step in steps]}
    (FOLDER / "gpu-check.json").write_text(json.dumps(report, indent=1) + "\n")
    lines = [
        f"# Check on {facts.get('gpu', 'a GPU that did not answer')}, {date}",
        "",
        f"torch {facts.get('torch', '?')}, CUDA {facts.get('cuda', '?')}. Made by `make gpu-check`.",
        "",
        "| step | result | seconds |",
        "|---|---|---|",
        *(f"| {step.name} | {'passed' if step.passed else 'FAILED'} | {step.seconds} |" for step in steps),
        "",
        "| operator | kernel on CUDA |",
        "|---|---|",
        *(f"| {operator} | {kernel} |" for operator, kernel in facts.get("kernels", {}).items()),
    ]
    (FOLDER / "gpu-check.md").write_text("\n".join(lines) + "\n")
    print(f"written to {FOLDER / 'gpu-check.json'} and .md")


if __name__ == "__main__":
    sys.exit(main())
