"""The benchmark's cases give torchvision's results, and its report lists the measurements."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from detector.tools.bench import operators as bench_ops
from detector.tools.bench.op_cases import CASES, Agreement, Case, Work

# Relative to the largest value. Causes: the order of float32 sums, and the last digit of bfloat16.
ROUNDING = {torch.float32: 4e-6, torch.bfloat16: 2**-8}


def _parameters() -> list:
    return [
        pytest.param(case, id=f"{case.name} {case.size}", marks=pytest.mark.slow if "2000 RoIs" in case.size else ())
        for case in CASES
        if case.agreement is not Agreement.none
    ]


@pytest.mark.parametrize("case", _parameters())
def test_each_case_gives_torchvisions_result(case: Case) -> None:
    work = case.prepare(torch.device("cpu"))
    ours, theirs = work.ours(), work.peer()
    assert isinstance(ours, Tensor)
    assert ours.dtype == theirs.dtype
    if case.agreement is Agreement.exact:
        assert torch.equal(ours, theirs)
    else:
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=ROUNDING[ours.dtype] * scale)


def test_case_names_are_unique() -> None:
    assert len({(case.name, case.size) for case in CASES}) == len(CASES)


def test_the_report_lists_the_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_ops, "CASES", [case for case in CASES if case.name == "nms" and "2000" in case.size])
    assert bench_ops.main(["--device", "cpu", "--seconds", "0", "--folder", str(tmp_path)]) == 0
    assert "geometric mean (cpu)" in capsys.readouterr().out
    table = (tmp_path / "ops-cpu.md").read_text()
    assert "| nms | 2000 boxes, IoU 0.7 |" in table
    assert str(tmp_path) not in table
    assert '"ratio"' in (tmp_path / "ops-cpu.json").read_text()


def test_an_error_in_a_case_keeps_the_other_measurements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(device: torch.device) -> Work:
        written.append((tmp_path / "ops-cpu.md").exists())
        raise RuntimeError("no kernel image\nmore of it")

    written: list[bool] = []
    good = next(case for case in CASES if case.name == "nms" and "2000" in case.size)
    broken = replace(good, name="broken", prepare=break_down)
    monkeypatch.setattr(bench_ops, "CASES", [good, broken, replace(good, name="after")])
    assert bench_ops.main(["--device", "cpu", "--seconds", "0", "--folder", str(tmp_path)]) == 1
    assert written == [True]
    report = json.loads((tmp_path / "ops-cpu.json").read_text())
    assert [row["name"] for row in report["rows"]] == ["nms", "after"]
    assert report["errors"] == {"broken 2000 boxes, IoU 0.7": "RuntimeError: no kernel image"}
    assert "- broken 2000 boxes, IoU 0.7: RuntimeError: no kernel image" in (tmp_path / "ops-cpu.md").read_text()
