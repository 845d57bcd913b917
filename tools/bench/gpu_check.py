"""`make gpu-check`: builds the CUDA kernels on a machine with a GPU, tests and measures them, and then trains.

It installs nothing and needs no network. The steps for the operators need nvcc, and Python with torch, torchvision and
pytest. The training also needs hydra-core, omegaconf, antlr4-python3-runtime, PyYAML, tensorboard and tqdm. For
packages that the machine does not have, put wheels in build/wheels (`make gpu-wheels`); build/gpu gets their content.

All steps share LIMIT seconds. A step that fails or takes too long is killed with all its processes. The other steps go
on, except those that need it: if the build fails, no other kernel is tested in its place. After every step, the results
so far are written to docs/benchmarks/gpu-check.json and .md. The exit code is 1 if a step failed.

Run this file directly: `python tools/bench/gpu_check.py`. The steps run in build/gpu and import `detector` from there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "gpu"
WHEELS = ROOT / "build" / "wheels"
FOLDER = ROOT / "docs" / "benchmarks"
LIMIT = 465.0  # seconds for all steps together
TRAINING_SECONDS = 180
KEPT_OUTPUT = 4000  # characters kept from the end of a step's output
PASSED, FAILED, NOT_RUN = "passed", "FAILED", "not run"

MACHINE = """
import json, os, torch, torchvision
assert torch.cuda.is_available(), f"torch {torch.__version__} finds no CUDA device"
gpu = torch.cuda.get_device_properties(0)
print(json.dumps({
    "gpu": gpu.name, "capability": f"{gpu.major}.{gpu.minor}", "memory_gib": round(gpu.total_memory / 2**30, 1),
    "processors": gpu.multi_processor_count, "cpu_cores": os.cpu_count(), "torch": torch.__version__,
    "torchvision": torchvision.__version__, "cuda": torch.version.cuda,
}))
"""
KERNELS = """
import json
from detector.ops import native_status
kernels = {status.operator: status.reason or status.kernel for status in native_status() if status.device == "cuda"}
print(json.dumps(kernels))
raise SystemExit(any(kernel != "compiled" for kernel in kernels.values()))
"""
NO_TRAINING = r"ModuleNotFoundError: No module named '(hydra|omegaconf|antlr4|yaml|tensorboard|tqdm)"
NO_SANITIZER = r"Device not supported"
# What compute-sanitizer says of this project's kernels. Its exit code would also count errors of torch: failed calls
# that torch expects, and kernels that read padding. Lines of the host's call stack say nothing about a kernel.
BAD_ACCESS = r"^=========(?!.*Host Frame).*fast_rfcn::.*"
RACE = r"^========= Error:.*fast_rfcn::.*"


@dataclass(frozen=True, slots=True)
class Step:
    """A command to run."""

    name: str
    command: list[str]
    limit: float  # seconds
    needs: tuple[str, ...] = ()  # names of steps that must have passed
    environment: Mapping[str, str] = field(default_factory=dict)
    impossible: str = ""  # a pattern of output which shows that this machine cannot run the step
    fault: str = ""  # a pattern of output which shows that the step fails, whatever its exit code
    results: str = ""  # NAME of NAME.json and NAME.md, which the command writes to WORK


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a step."""

    name: str
    outcome: str  # PASSED, FAILED or NOT_RUN
    seconds: float
    output: str  # the end of the output, or the reason why the step was not run
    figures: dict[str, Any]  # the last line of output that is a JSON object
    results: dict[str, Any]  # the content of its NAME.json
    table: str  # the content of its NAME.md


class Check:
    """Runs steps and keeps their outcomes and the remaining time."""

    def __init__(self, folder: Path | None, limit: float = LIMIT) -> None:
        """Results are written to `folder`, unless it is None. All steps together have `limit` seconds."""
        self.folder = folder
        self.outcomes: dict[str, Outcome] = {}
        self._end = time.monotonic() + limit

    def left(self) -> float:
        """The remaining time in seconds."""
        return self._end - time.monotonic()

    def figures(self, name: str) -> dict[str, Any]:
        """The measured values of a step; empty if it has none."""
        return self.outcomes[name].figures if name in self.outcomes else {}

    def run(self, steps: list[Step]) -> None:
        """Run steps at the same time, each in a separate process group, and write the results after each."""
        running: list[_Running] = []
        try:
            for step in steps:
                if reason := self._reason_not_to_run(step):
                    self._add(Outcome(step.name, NOT_RUN, 0.0, reason, {}, {}, ""))
                else:
                    running.append(_Running(step, min(step.limit, self.left())))
            while running:
                time.sleep(0.02)
                for each in [each for each in running if each.finished()]:
                    running.remove(each)
                    self._add(each.outcome())
        finally:
            for each in running:
                each.end()

    def _reason_not_to_run(self, step: Step) -> str:
        """The reason why a step cannot run; "" if it can."""
        for name in step.needs:
            if name in self.outcomes and self.outcomes[name].outcome != PASSED:
                return f'it needs the step "{name}", which did not pass'
        return "" if self.left() > 1 else "no time was left"

    def _add(self, outcome: Outcome) -> None:
        self.outcomes[outcome.name] = outcome
        print(f"== {outcome.name}\n{outcome.output}\n{outcome.outcome} in {outcome.seconds} s", flush=True)
        if self.folder is not None:
            write(self.folder, list(self.outcomes.values()))


class _Running:
    """A started step."""

    def __init__(self, step: Step, limit: float) -> None:
        self.step, self.limit = step, limit
        self.start = time.monotonic()
        self.timed_out = False
        self.log = WORK / f"{step.name.replace(' ', '-')}.log"
        for ending in (".json", ".md"):
            (WORK / f"{step.results or step.name}{ending}").unlink(missing_ok=True)
        # A file, not a pipe: reading a pipe to its end waits for all processes that hold it.
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                step.command,
                cwd=WORK,
                env={**os.environ, "PYTHONPATH": str(WORK), "PYTHONUNBUFFERED": "1", **step.environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finished(self) -> bool:
        """Return whether the command has ended. Kill it if its time is over."""
        if self.process.poll() is None and time.monotonic() - self.start > self.limit:
            self.timed_out = True
            self.end()
        return self.process.poll() is not None

    def end(self) -> None:
        """Kill the command and all processes that it started."""
        with suppress(ProcessLookupError):  # all processes have ended
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def outcome(self) -> Outcome:
        self.end()  # kills processes that the command left running
        seconds = round(time.monotonic() - self.start, 1)
        output = self.log.read_text(errors="replace")
        outcome = PASSED if self.process.returncode == 0 and not self.timed_out else FAILED
        if self.step.fault and (faults := re.findall(self.step.fault, output, re.MULTILINE)):
            outcome = FAILED
            output += f"\n{len(faults)} faults, the first: {faults[0]}"
        if outcome == FAILED and self.step.impossible and (found := re.search(self.step.impossible, output)):
            return Outcome(self.step.name, NOT_RUN, seconds, found[0], {}, {}, "")
        if self.timed_out:
            output += f"\nended after {self.limit:.3g} s"
        json_file, table = (WORK / f"{self.step.results}{ending}" for ending in (".json", ".md"))
        has_results = bool(self.step.results) and json_file.exists()
        return Outcome(
            self.step.name,
            outcome,
            seconds,
            output[-KEPT_OUTPUT:].strip(),
            last_json(output),
            json.loads(json_file.read_text()) if has_results else {},
            table.read_text() if has_results else "",
        )


def last_json(output: str) -> dict[str, Any]:
    """The last line of `output` that is a JSON object; empty if there is none."""
    for line in reversed(output.splitlines()):
        try:
            found = json.loads(line) if line.startswith("{") else None
        except json.JSONDecodeError:
            continue
        if isinstance(found, dict):
            return found
    return {}


def main(arguments: list[str] | None = None) -> int:
    """Run the steps. Return the exit code."""
    parser = argparse.ArgumentParser(prog="gpu_check", description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.4, help="for each case of the benchmark (default 0.4)")
    parser.add_argument("--voc", type=Path, help="VOCdevkit folder to train on (default: the synthetic data set)")
    parser.add_argument("--wheels", type=Path, default=WHEELS, help="folder of wheels to unpack (default build/wheels)")
    parser.add_argument("--only", default="", help="steps whose name contains this; writes nothing")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that running steps are killed too
    prepare(options.wheels)
    check = Check(None if options.only else FOLDER)
    for together in stages(options, check.figures, check.left):
        check.run([step for step in together if options.only in step.name])
    if not check.outcomes:
        print(f"no step's name contains {options.only!r}")
    elif check.folder is not None:
        print(f"written to {FOLDER / 'gpu-check.json'} and .md")
    return 0 if check.outcomes and all(each.outcome != FAILED for each in check.outcomes.values()) else 1


def prepare(wheels: Path) -> None:
    """Make `detector` and the packages of the wheels importable from WORK, without an installation."""
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    (WORK / "detector").symlink_to(ROOT / "detector")
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(WORK)


def stages(
    options: argparse.Namespace, figures: Callable[[str], dict[str, Any]], left: Callable[[], float]
) -> Iterator[list[Step]]:
    """The steps in order. The steps of one list run at the same time; steps that measure time run alone.

    Args:
        options: the options of the command line.
        figures: returns the measured values of a step that has run.
        left: returns the remaining seconds for all steps.
    """
    python = sys.executable
    yield [Step("machine", [python, "-c", MACHINE], 60)]
    # Build for this GPU only: each further target takes as long again.
    target = figures("machine").get("capability", "9.0")
    yield [Step("build", [python, str(ROOT / "ops/compile.py"), "cuda"], 200, (), {"TORCH_CUDA_ARCH_LIST": target})]
    compiled = {
        "DETECTOR_NATIVE": "cuda"
    }  # raise an error if the library is missing, do not fall back to PyTorch kernels
    yield [Step("kernels", [python, "-c", KERNELS], 60, ("machine", "build"), compiled)]

    built = ("machine", "build", "kernels")
    pytest = [
        python,
        "-m",
        "pytest",
        "-q",
        "--noconftest",
        "-p",
        "no:cacheprovider",
        "-c",
        str(ROOT / "pyproject.toml"),
    ]
    pytest += ["-o", "filterwarnings=default", "-m", "", str(ROOT / "tests/ops/test_devices.py")]
    indices = str(ROOT / "tests/ops/test_image_indices.py")
    training = [python, "-m", "detector.tools.bench.gpu_training", "--folder", str(WORK / "runs")]
    training += ["--voc", str(options.voc.resolve())] if options.voc else []

    def train(part: str, limit: float, *more: str) -> Step:
        return Step(f"training, {part}", [*training, part, *more], limit, built, compiled, NO_TRAINING)

    together = [Step("tests on the GPU", [*pytest, indices, "-k", "cuda"], 120, built, compiled)]
    if sanitizer := find_sanitizer():
        # With the cache, a tensor is part of a larger allocation: its bounds are unknown, and it counts as initialized.
        watched = {**compiled, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        small = "cuda and float32 and contiguous and (slab or tiny) or suppression_equals and float32 and cuda and 65"
        # initcheck must see the writes of all kernels, or it takes their results for memory that nobody wrote.
        ours = kernel_filter(sanitizer)
        for tool, only, fault in (
            ("memcheck", ours, BAD_ACCESS),
            ("racecheck", ours, RACE),
            ("initcheck", [], BAD_ACCESS),
        ):
            command = [sanitizer, *only, "--tool", tool, *pytest, "-k", small]
            together.append(Step(tool, command, 120, built, watched, NO_SANITIZER, fault))
    yield [*together, train("resume", 120), train("fp16", 120)]

    bench = [python, "-m", "detector.tools.bench.operators", "--device", "cuda", "--folder", str(WORK)]
    bench += ["--seconds", f"{options.seconds:g}"]
    yield [Step("benchmark", bench, 120, built, compiled, results="ops-cuda")]
    seconds = max(20, min(TRAINING_SECONDS, int(left()) - 75))
    yield [train("bf16", seconds + 30, "--seconds", str(seconds))]
    yield [train("compile", 90)]


def find_sanitizer() -> str | None:
    """The path of compute-sanitizer; None if it is not installed."""
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin")
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=str(toolkit))


def kernel_filter(sanitizer: str) -> list[str]:
    """The option that limits compute-sanitizer to this project's kernels; empty if it has none."""
    usage = subprocess.run([sanitizer, "--help"], capture_output=True, text=True, check=False).stdout
    option = next((each for each in ("--kernel-regex", "--kernel-name") if each in usage), None)
    return [option, "kns=fast_rfcn"] if option else []


def write(folder: Path, outcomes: list[Outcome]) -> None:
    """Write gpu-check.json and gpu-check.md: the steps, the operators' kernels, and all measurements."""
    figures = {each.name: each.figures for each in outcomes if each.figures}
    machine, kernels = figures.get("machine", {}), figures.get("kernels", {})
    date = time.strftime("%Y-%m-%d", time.gmtime())
    folder.mkdir(parents=True, exist_ok=True)
    steps = [asdict(each) for each in outcomes]
    (folder / "gpu-check.json").write_text(json.dumps({"date": date, **machine, "steps": steps}, indent=1) + "\n")
    lines = [
        f"# Check on {machine.get('gpu', 'a machine without a working GPU')}, {date}",
        "",
        f"Made by `make gpu-check`; {', '.join(f'{key} {value}' for key, value in machine.items() if key != 'gpu')}.",
        "",
        "| step | outcome | seconds | remark |",
        "|---|---|---|---|",
    ]
    for each in outcomes:
        remark = "" if each.outcome == PASSED else each.output.rpartition("\n")[2].replace("|", "/")[:160]
        lines.append(f"| {each.name} | {each.outcome} | {each.seconds} | {remark} |")
    if kernels:
        lines += ["", "| operator | kernel on CUDA |", "|---|---|"]
        lines += [f"| {operator} | {kernel} |" for operator, kernel in kernels.items()]
    for name, values in figures.items():
        if name.startswith("training"):
            lines += ["", f"## {name[0].upper()}{name[1:]}", "", "| measurement | value |", "|---|---|"]
            lines += [f"| {key} | {value} |" for key, value in values.items()]
    for each in outcomes:
        if each.table:
            lines += ["", re.sub(r"^#", "##", each.table, flags=re.MULTILINE).strip()]
    (folder / "gpu-check.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
