"""`make gpu-check` with substitute commands that fail, hang or are missing, and the report that it writes."""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from detector.tools.bench import gpu_check
from detector.tools.bench.gpu_check import FAILED, NOT_RUN, PASSED, Check, Step

SHELL = "/bin/sh"
COMPILE = Path(gpu_check.ROOT, "ops", "compile.py")


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.setattr(gpu_check, "WORK", folder)
    return folder


def shell(name: str, script: str, limit: float = 10, **fields: object) -> Step:
    return Step(name, [SHELL, "-c", script], limit, **fields)  # type: ignore[arg-type]


def report_steps(folder: Path) -> list[dict]:
    return json.loads((folder / "gpu-check.json").read_text())["steps"]


def has_ended(pid: int) -> bool:
    """Return whether a killed process is gone. Wait for it, since this may take a moment."""
    state = Path(f"/proc/{pid}/stat")
    for _ in range(1000):
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] in "ZX":
            return True
        time.sleep(0.01)
    return False


def test_the_report_is_written_after_every_step(tmp_path: Path) -> None:
    check = Check(tmp_path)
    check.run([shell("machine", """echo '{"gpu": "a GPU", "cuda": "13.0"}'""")])
    assert [step["name"] for step in report_steps(tmp_path)] == ["machine"]
    check.run([shell("second", "echo 'what is wrong | really'; exit 3")])
    check.run([shell("training, bf16", """echo loading; echo '{"images/s": 41.5}'; echo '{broken'; kill -9 $$""")])
    assert [step["outcome"] for step in report_steps(tmp_path)] == [PASSED, FAILED, FAILED]
    table = (tmp_path / "gpu-check.md").read_text()
    assert table.startswith("# Check on a GPU, ")
    assert "| second | FAILED |" in table
    assert "what is wrong / really" in table
    assert "## Training, bf16" in table
    assert "| images/s | 41.5 |" in table


def test_a_step_that_needs_a_failed_step_is_not_run(tmp_path: Path) -> None:
    check = Check(tmp_path)
    check.run([shell("build", "exit 1")])
    check.run([shell("kernels", "touch ran", needs=("build",)), shell("other", "true")])
    check.run([shell("tests", "touch ran", needs=("kernels",))])
    outcomes = {step["name"]: step["outcome"] for step in report_steps(tmp_path)}
    assert outcomes == {"build": FAILED, "kernels": NOT_RUN, "other": PASSED, "tests": NOT_RUN}
    assert not Path(gpu_check.WORK, "ran").exists()
    assert 'it needs the step "build", which did not pass' in (tmp_path / "gpu-check.md").read_text()


def test_a_step_over_its_time_limit_is_ended_with_its_children(tmp_path: Path) -> None:
    check = Check(tmp_path)
    start = time.monotonic()
    check.run([shell("slow", "sleep 60 & echo $!; wait", 0.3), shell("quick", "sleep 0.01; echo done")])
    assert time.monotonic() - start < 30
    assert check.outcomes["quick"].outcome == PASSED
    output = check.outcomes["slow"].output
    assert output.endswith("ended after 0.3 s")
    assert check.outcomes["slow"].outcome == FAILED
    assert has_ended(int(output.split()[0]))


def test_processes_that_a_step_leaves_running_are_ended(tmp_path: Path) -> None:
    check = Check(None)
    check.run([shell("leaves", "sleep 60 & echo $!")])
    assert check.outcomes["leaves"].outcome == PASSED
    assert has_ended(int(check.outcomes["leaves"].output))


def test_no_step_is_started_after_the_time_limit() -> None:
    check = Check(None, limit=0)
    check.run([shell("late", "true")])
    assert check.outcomes["late"].outcome == NOT_RUN
    assert check.outcomes["late"].output == "no time was left"


def test_a_step_with_a_missing_package_counts_as_not_run() -> None:
    check = Check(None)
    missing = "echo \"ModuleNotFoundError: No module named 'hydra'\"; exit 1"
    check.run([shell("training", missing, impossible=gpu_check.NO_TRAINING), shell("operators", missing)])
    assert check.outcomes["training"].outcome == NOT_RUN
    assert check.outcomes["training"].output == "ModuleNotFoundError: No module named 'hydra"
    assert check.outcomes["operators"].outcome == FAILED


@pytest.mark.parametrize(
    ("line", "pattern", "outcome"),
    [
        ("=========     at void fast_rfcn::pool_bins<float>(int)+0x40", gpu_check.BAD_ACCESS, FAILED),
        ("=========     at void at::native::sort<int>(int)+0x40", gpu_check.BAD_ACCESS, PASSED),
        ("=========     Host Frame: fast_rfcn::nms(at::Tensor) [0x12]", gpu_check.BAD_ACCESS, PASSED),
        ("========= Program hit cudaErrorInvalidValue on CUDA API call to cudaMalloc", gpu_check.BAD_ACCESS, PASSED),
        ("========= Error: Race reported between Write access at fast_rfcn::k(int)+0x1", gpu_check.RACE, FAILED),
        ("========= Warning: Race reported between Write access at fast_rfcn::k(int)+0x1", gpu_check.RACE, PASSED),
        ("fast_rfcn::nms is tested", gpu_check.BAD_ACCESS, PASSED),
    ],
)
def test_only_faults_of_this_projects_kernels_count(line: str, pattern: str, outcome: str) -> None:
    check = Check(None)
    check.run([shell("memcheck", f"echo before; echo '{line}'; echo 1 passed", fault=pattern)])
    assert check.outcomes["memcheck"].outcome == outcome
    assert check.outcomes["memcheck"].output.endswith(
        f"1 faults, the first: {line}" if outcome == FAILED else "1 passed"
    )


def test_partial_results_of_an_ended_command_are_kept(tmp_path: Path) -> None:
    check = Check(tmp_path)
    script = """echo '{"rows": [1]}' > ops-cuda.json; echo '# The operators' > ops-cuda.md; sleep 60"""
    check.run([shell("benchmark", script, 0.5, results="ops-cuda")])
    assert report_steps(tmp_path)[0]["results"] == {"rows": [1]}
    assert "\n## The operators\n" in (tmp_path / "gpu-check.md").read_text()


@pytest.fixture
def compile_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that makes a build step: a copy of ops/compile.py that runs a script in place of nvcc."""

    def step(script: str, limit: float = 20) -> Step:
        toolkit, ops = tmp_path / "cuda", tmp_path / "ops"
        for folder in (toolkit / "bin", toolkit / "nvvm", ops / "csrc" / "cuda"):
            folder.mkdir(parents=True)
        shutil.copy(COMPILE, ops)
        for name in ("a", "b"):
            (ops / "csrc" / "cuda" / f"{name}.cu").touch()
        (ops / "libfast_rfcn_cuda.so").write_text("an older library")
        torch = tmp_path / "site" / "torch"
        (torch / "include/torch/csrc/stable").mkdir(parents=True)
        for name in ("__init__.py", "include/torch/csrc/stable/library.h"):
            (torch / name).touch()
        (torch / "version.py").write_text("cuda: Optional[str] = '13.0'\n")
        nvcc = toolkit / "bin" / "nvcc"
        version = "echo 'Cuda compilation tools, release 13.0, V13.0.88'; exit"
        nvcc.write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && {{ {version}; }}\necho "$@" >> {tmp_path}/calls\n{script}\n'
        )
        nvcc.chmod(0o755)
        monkeypatch.setenv("CUDA_HOME", str(toolkit))
        environment = {"PYTHONPATH": str(tmp_path / "site"), "TORCH_CUDA_ARCH_LIST": "9.0"}
        command = [sys.executable, "-S", str(ops / "compile.py"), "cuda", "--temporary", str(tmp_path / "objects")]
        return Step("build", command, limit, (), environment)

    return step


def test_a_build_compiles_each_file_once_and_only_for_the_gpu_at_hand(compile_with, tmp_path: Path) -> None:
    check = Check(None)
    check.run([compile_with("true")])
    assert check.outcomes["build"].outcome == PASSED, check.outcomes["build"].output
    calls = (tmp_path / "calls").read_text().splitlines()
    assert sorted(name for call in calls for name in ("a.cu", "b.cu", "-shared") if name in call) == [
        "-shared",
        "a.cu",
        "b.cu",
    ]
    assert all(call.count("-gencode") == 1 and "sm_90" in call for call in calls if "-shared" not in call)


def test_a_failed_build_leaves_no_older_library(compile_with, tmp_path: Path) -> None:
    check = Check(None)
    check.run([compile_with("echo 'a.cu(3): error: expected a ;' >&2; exit 2")])
    assert check.outcomes["build"].outcome == FAILED
    assert "nvcc failed: a.cu(3): error: expected a ;" in check.outcomes["build"].output
    assert not (tmp_path / "ops" / "libfast_rfcn_cuda.so").exists()


def test_a_hanging_compiler_is_ended_with_its_children(compile_with, tmp_path: Path) -> None:
    check = Check(None)
    step = compile_with(f"sleep 60 & echo $! >> {tmp_path}/children; wait", limit=2)
    check.run([step])
    assert check.outcomes["build"].outcome == FAILED
    children = (tmp_path / "children").read_text().split()
    assert children
    assert all(has_ended(int(child)) for child in children)
    assert not (tmp_path / "ops" / "libfast_rfcn_cuda.so").exists()


def test_the_steps_use_only_the_compiled_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_check, "find_sanitizer", lambda: "compute-sanitizer")
    monkeypatch.setattr(gpu_check, "kernel_filter", lambda sanitizer: ["--kernel-regex", "kns=fast_rfcn"])
    options = gpu_check.argparse.Namespace(voc=tmp_path, seconds=0.4)
    stages = list(gpu_check.stages(options, lambda name: {"capability": "9.0"}, lambda: 300.0))
    steps = {step.name: step for together in stages for step in together}
    assert len(steps) == sum(map(len, stages))
    assert steps["build"].environment == {"TORCH_CUDA_ARCH_LIST": "9.0"}
    after = [step for name, step in steps.items() if name not in ("machine", "build")]
    assert all(step.environment["DETECTOR_NATIVE"] == "cuda" and "build" in step.needs for step in after)
    assert {"memcheck", "racecheck", "initcheck", "benchmark", "training, bf16", "training, resume"} <= set(steps)
    assert any(word.endswith("test_image_indices.py") for word in steps["tests on the GPU"].command)
    assert "kns=fast_rfcn" in steps["memcheck"].command
    assert "kns=fast_rfcn" not in steps["initcheck"].command
    for timed in ("benchmark", "training, bf16", "training, compile"):
        assert [steps[timed]] in stages


def test_wheels_are_unpacked_into_the_work_folder(work: Path, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    (wheels / "content" / "package").mkdir(parents=True)
    (wheels / "content" / "package" / "__init__.py").touch()
    archive = shutil.make_archive(str(wheels / "package-1-py3-none-any"), "zip", wheels / "content")
    os.rename(archive, archive.replace(".zip", ".whl"))
    gpu_check.prepare(wheels)
    assert (work / "package" / "__init__.py").exists()
    assert (work / "detector" / "ops" / "compile.py").exists()
