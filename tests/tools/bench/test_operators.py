"""The benchmark's cases give what torchvision gives, and its report says what was measured."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from detector.tools.bench import operators as bench_ops
from detector.tools.bench.op_cases import CASES, Agreement, Case

# Relative to the largest value: the order of a float32 sum, and the last place of bfloat16.
ROUNDING = {torch.float32: 4e-6, torch.bfloat16: 2**-8}


def _parameters() -> list:
    return [
        pytest.param(case, id=f"{case.name} {case.size}", marks=pytest.mark.slow if "2000 RoIs" in case.size else ())
        for case in CASES
        if case.agreement is not Agreement.none
    ]


@pytest.mark.parametrize("case", _parameters())
def test_gives_what_torchvision_gives(case: Case) -> None:
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


def test_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench_ops, "CASES", [case for case in CASES if case.name == "nms" and "2000" in case.size])
    assert bench_ops.main(["--device", "cpu", "--seconds", "0", "--folder", str(tmp_path)]) == 0
    assert "geometric mean (cpu)" in capsys.readouterr().out
    table = (tmp_path / "ops-cpu.md").read_text()
    assert "| nms | 2000 boxes, IoU 0.7 |" in table
    assert str(tmp_path) not in table
    assert '"ratio"' in (tmp_path / "ops-cpu.json").read_text()
