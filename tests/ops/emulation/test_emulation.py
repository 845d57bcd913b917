"""The CUDA kernels on the emulated device: a sample of `make emulate`, and faults that the emulator must find."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))
from breakages import BREAKAGES, NMS, Breakage
from build import CannotBuildError, build, sources, translate, with_one_dtype

HERE = Path(__file__).parent
# Of a large map that is laid out in several turns, and of maps without images: rare among the first ones.
SAMPLE = (*range(60), 72, 81, 82)
# Together the others take minutes.
QUICK = {"lanes do not wait for their turn"}


def check(library: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE / "check.py"), "--library", str(library), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_a_sample_of_all_operators_agrees_with_the_pytorch_kernels() -> None:
    result = check(build(sources(), jobs=1), "--numbers", ",".join(map(str, SAMPLE)))
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1].endswith("0 cases failed")


def message_of(breakage: Breakage) -> str:
    """Return what the emulator or its compiler says about this breakage; "" if it is not found."""
    try:
        library = build(breakage.apply(sources()), jobs=1)
    except CannotBuildError as error:
        return str(error)
    dtype = [] if breakage.dtype == "all" else ["--dtype", breakage.dtype]
    result = check(library, "--only", breakage.group, "--cases", "120", "--stop", "1", *dtype)
    library.unlink()
    assert result.returncode in (0, 1), result.stdout + result.stderr
    return result.stdout.partition("FAILED")[2].partition("): ")[2]  # without the names of the case


@pytest.mark.parametrize(
    "breakage",
    [pytest.param(each, marks=[] if each.name in QUICK else pytest.mark.slow, id=each.name) for each in BREAKAGES],
)
def test_a_broken_kernel_is_found(breakage: Breakage) -> None:
    message = message_of(breakage)
    assert re.search(breakage.message, message), message or "not found"


@pytest.mark.slow
@pytest.mark.parametrize(("step", "code"), [("distance /= 2", 0), ("distance /= 4", 1)])
def test_the_code_for_gpus_without_reductions_of_a_warp(step: str, code: int) -> None:
    texts = {name: text for name, text in sources().items() if not name.endswith(".cu") or name == NMS}
    texts[NMS] = texts[NMS].replace("namespace fast_rfcn {", "#define __CUDA_ARCH__ 750\nnamespace fast_rfcn {", 1)
    texts[NMS] = texts[NMS].replace("distance /= 2", step)
    library = build(with_one_dtype(texts, "float"), jobs=1)
    result = check(library, "--only", "nms", "--cases", "10", "--stop", "1", "--dtype", "float32")
    library.unlink()
    assert result.returncode == code, result.stdout + result.stderr


@pytest.mark.slow
def test_the_cost_of_an_operator_includes_its_inputs() -> None:
    command = [sys.executable, str(HERE / "cost.py"), "--only", "roi_pool [2", "--blocks", "4", "--no-registers"]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    found = re.search(r"floor +([\d.]+) MB, requested +([\d.]+)", result.stdout)
    assert found, result.stdout + result.stderr
    assert float(found[2]) > 0.95 * float(found[1])


@pytest.mark.parametrize("space", [" ", "\n    "])
def test_every_breakage_applies_to_the_kernels_in_any_layout(space: str) -> None:
    texts = {name: re.sub(r"(?<=[,;(]) ?(?=\S)", space, text) for name, text in sources().items()}
    for breakage in BREAKAGES:
        broken = breakage.apply(texts)
        assert broken[breakage.file] != texts[breakage.file]


@pytest.mark.parametrize(
    ("source", "translated"),
    [
        ("kernel<<<grid, 32>>>(a);", "::emulation::Launch(kernel, grid, 32)(a);"),
        ("pool<S, 4><<<g, b, n, s>>>(a, b);", "::emulation::Launch(pool<S, 4>, g, b, n, s)(a, b);"),
        ("__shared__ float sums[4][8];", "auto& sums = ::emulation::shared_array<float[4][8]>(__COUNTER__);"),
        ("__shared__ __align__(16) Box<T> box;", "auto& box = ::emulation::shared_array<Box<T>>(__COUNTER__, 16);"),
        ("extern __shared__ Word all[];", "Word* all = ::emulation::dynamic_shared<Word>();"),
        (
            "__launch_bounds__(f(2), 1) k(int (&a)[1]) { a; }",
            "__launch_bounds__(f(2), 1) k(int (&a)[1]) { ::emulation::within(f(2), 1); a; }",
        ),
    ],
)
def test_what_is_not_cpp_is_translated(source: str, translated: str) -> None:
    assert translate(source, "kernel.cu").splitlines()[1:] == [translated]


@pytest.mark.parametrize("source", ["__shared__ float a, b;", "__shared__ float a = 0;", 'asm("exit;");'])
def test_code_that_cannot_be_translated_is_named(source: str) -> None:
    with pytest.raises(CannotBuildError, match=r"kernel\.cu:2: no rule translates"):
        translate(f"int before;\n{source}", "kernel.cu")
