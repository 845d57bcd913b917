"""The GPUs that a build targets, and refused combinations of versions."""

from pathlib import Path

import pytest

from detector.ops import compile as kernels

NVCC = "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 12.4, V12.4.131\n"


@pytest.mark.parametrize("torch", ["12.4", "12.8", "12"])
def test_nvcc_and_torch_of_one_major_version_are_accepted(torch: str) -> None:
    assert kernels.check_versions(NVCC, torch) is None, "no error"


@pytest.mark.parametrize(
    ("nvcc", "torch", "message"),
    [
        (NVCC, "13.2", r"nvcc has CUDA 12\.4, torch has CUDA 13\.2; .* set CUDA_HOME"),
        (NVCC, "1.2", r"nvcc has CUDA 12\.4, torch has CUDA 1\.2"),
        (NVCC, None, "the installed torch has no CUDA"),
        ("command not found", "13.2", "no release number in the output of nvcc --version: 'command not found'"),
    ],
)
def test_other_versions_are_refused(nvcc: str, torch: str | None, message: str) -> None:
    with pytest.raises(kernels.CannotBuildError, match=message):
        kernels.check_versions(nvcc, torch)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("__version__ = '2.11.0+cu128'\ncuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n", "12.8"),
        ("__version__ = '2.11.0+cpu'\ncuda: Optional[str] = None\n", None),
    ],
)
def test_torchs_cuda_is_read_without_importing_it(text: str, version: str | None, tmp_path: Path) -> None:
    (tmp_path / "version.py").write_text(text)
    assert kernels.torch_cuda_version(tmp_path) == version


def test_targets_give_code_and_ptx_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5 8.0;9.0+PTX")
    assert kernels.targets() == ["7.5", "8.0", "9.0+PTX"]
    assert kernels.architecture_flags(["7.5", "9.0+PTX"]) == [
        "-gencode=arch=compute_75,code=sm_75",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
    ]


def test_a_failed_build_leaves_no_older_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = tmp_path / "csrc" / "cpu"
    sources.mkdir(parents=True)
    (sources / "broken.cpp").write_text("this is no C++;\n")
    monkeypatch.setattr(kernels, "CSRC", tmp_path / "csrc")
    target = tmp_path / "libfast_rfcn_cpu.so"
    target.write_text("from before")
    with pytest.raises(kernels.CannotBuildError, match="error"):
        kernels.build_library("cpu", target, tmp_path / "objects")
    assert not target.exists()
