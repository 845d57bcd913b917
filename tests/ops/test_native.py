"""The compiled library: its status, equal results of all instruction sets, and the fallback."""

import json
import os
import subprocess
import sys

import pytest
import torch

from detector.ops import _native, native_status

COMPILED = any(status.kernel == "compiled" and status.device == "cpu" for status in native_status())

RUN_EVERYTHING = """
import hashlib, torch
import detector.ops as ops
from detector.ops.depthwise import depthwise_conv
g = torch.Generator().manual_seed(0)
rois = torch.cat((torch.randint(0, 2, (30, 1), generator=g), torch.rand(30, 4, generator=g) * 300 - 50), dim=1)
digest = hashlib.sha256()
features = torch.randn(1, 512, 8, 9, generator=g)  # outputs large enough for stores that bypass the caches
many = torch.cat((torch.zeros(101, 1), torch.rand(101, 4, generator=g) * 120), dim=1)
for output in (ops.roi_pool(features, many, 7, 1 / 16), ops.roi_align(features, many, 7, 1 / 16)):
    digest.update(output.numpy().tobytes())
for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
    x = torch.randn(2, 45, 13, 21, generator=g).to(dtype).requires_grad_()
    boxes = torch.rand(700, 4, generator=g) * 100
    boxes[:, 2:] += boxes[:, :2]
    labels = torch.randint(-3, 4, (700,), generator=g)
    kernel = torch.randn(45, 1, 3, 3, generator=g).to(torch.float64 if dtype == torch.float64 else torch.float32)
    kernel.requires_grad_()
    output = depthwise_conv(x, kernel, None, dilation=2, padding=2)
    for tensor in (output.detach(), *torch.autograd.grad(output, (x, kernel), output.detach())):
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    for keep in (
        ops.nms(boxes.to(dtype), boxes[:, 0].to(dtype), 0.5),
        ops.batched_nms(boxes.to(dtype), boxes[:, 0].to(dtype), labels, 0.3),
    ):
        digest.update(keep.numpy().tobytes())
    for output in (
        ops.roi_pool(x, rois, 7, 1 / 16),
        ops.roi_align(x, rois, (7, 5), 1 / 16, sampling_ratio=2),
        ops.roi_align(x, rois, 7, 1 / 16, reduction="max"),
        ops.roi_warp(x, rois, 14, 1 / 16),
        ops.ps_roi_pool(x, rois, 3, 1 / 16),
        ops.ps_roi_pool(x, rois, 3, 1 / 16, reduction="max"),
        ops.ps_roi_vote(x, rois, 3, 1 / 16),
        ops.ps_roi_vote(x, rois, 3, 1 / 16, reduction="max"),
        ops.ps_roi_align(x, rois, 3, 1 / 16),
        ops.deform_ps_roi_pool(x, rois, torch.randn(30, 10, 3, 3, generator=g), 3, 1 / 16),
    ):
        (grad,) = torch.autograd.grad(output, x, output.detach())
        for tensor in (output.detach(), grad):
            digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
print(digest.hexdigest())
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_the_status_lists_every_operator_with_a_reason_if_not_compiled() -> None:
    status = native_status()
    assert {(each.operator, each.device) for each in status} >= {("roi_pool", "cpu"), ("roi_align", "cuda")}
    for each in status:
        assert each.kernel in {"compiled", "pytorch"}
        assert bool(each.reason) == (each.kernel == "pytorch")
        assert "float32" in each.dtypes


@pytest.mark.skipif(not COMPILED, reason="no compiled CPU library here")
def test_instruction_sets_agree_to_the_last_bit() -> None:
    digests = {isa: run(RUN_EVERYTHING, DETECTOR_ISA=isa) for isa in ("baseline", "avx2", "avx512")}
    assert all(result.returncode == 0 for result in digests.values()), [result.stderr for result in digests.values()]
    assert len({result.stdout for result in digests.values()}) == 1


def test_a_requested_fallback_prints_nothing_and_is_in_the_status() -> None:
    result = run("import detector.ops as ops; print({s.reason for s in ops.native_status()})", DETECTOR_NATIVE="none")
    assert result.returncode == 0
    assert result.stderr == ""
    assert "DETECTOR_NATIVE=none" in result.stdout


def test_a_missing_library_is_logged_in_one_line_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = type(_native.FOLDER)(tmp_path)
    monkeypatch.setattr(_native, "FOLDER", folder)
    monkeypatch.setattr(_native, "_MISSING", {})
    monkeypatch.delenv("DETECTOR_NATIVE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (folder / "native_build.json").write_text(json.dumps({"cpu": "no C++ compiler was found"}))
    _native.load()
    assert [record.getMessage() for record in caplog.records] == [
        "the RoI operators run on PyTorch kernels on cpu: not built: no C++ compiler was found"
    ]


def test_a_broken_library_is_an_error_if_it_is_required(
    monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]
) -> None:
    folder = type(_native.FOLDER)(tmp_path)
    monkeypatch.setattr(_native, "FOLDER", folder)
    monkeypatch.setattr(_native, "_MISSING", {})
    (folder / "libfast_rfcn_cpu.so").write_text("no library")
    monkeypatch.setenv("DETECTOR_NATIVE", "cpu")
    with pytest.raises(RuntimeError, match=r"DETECTOR_NATIVE=cpu, but libfast_rfcn_cpu\.so does not load"):
        _native.load()


@pytest.mark.parametrize(
    ("targets", "capabilities", "reason"),
    [
        ("8.0;9.0+PTX", ((9, 0),), ""),
        ("8.0", ((8, 6), (8, 9)), ""),  # code for a major version runs on its later minor versions
        ("8.6", ((8, 0),), "no kernel for compute capability 8.0: the library was built for 8.6"),
        ("8.0;9.0+PTX", ((7, 5),), "no kernel for compute capability 7.5: the library was built for 8.0;9.0+PTX"),
        ("8.0;9.0+PTX", ((12, 0),), ""),  # through its PTX
        ("8.0;9.0", ((12, 0),), "no kernel for compute capability 12.0: the library was built for 8.0;9.0"),
        ("8.0", ((8, 0), (7, 0)), "no kernel for compute capability 7.0: the library was built for 8.0"),
        ("8.0", (), ""),
        ("", ((7, 5),), ""),  # the targets of the build are not recorded
    ],
)
def test_a_library_without_code_for_a_gpu_gives_the_reason(
    targets: str, capabilities: tuple[tuple[int, int], ...], reason: str
) -> None:
    assert _native._unsupported_gpu(targets, capabilities) == reason


def test_a_gpu_without_code_falls_back_before_the_library_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]
) -> None:
    folder = type(_native.FOLDER)(tmp_path)
    monkeypatch.setattr(_native, "FOLDER", folder)
    monkeypatch.setattr(_native, "present_capabilities", lambda: ((7, 5),))
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    (folder / "libfast_rfcn_cuda.so").write_text("no library")  # loading it would fail otherwise
    (folder / "native_build.json").write_text(json.dumps({"cuda": "built", "cuda_targets": "8.0"}))
    assert _native._load_one("cuda").startswith("no kernel for compute capability 7.5")
