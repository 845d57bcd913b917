"""Random numbers as a function of (seed, step, rank)."""

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detector.engine.seed import derive, make_deterministic, seed_step


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_a_derived_seed_is_a_63_bit_function_of_its_parts(seed: int, step: int) -> None:
    found = derive("step", seed, step)
    assert 0 <= found < 2**63
    assert found == derive("step", seed, step)
    assert found != derive("step", seed, step + 1)
    assert found != derive("order", seed, step)


def test_parts_are_separated() -> None:
    assert derive(1, 23) != derive(12, 3)
    assert derive("1") != derive(1)


def test_derived_seeds_never_change() -> None:
    """A later version may resume a run, so the function is frozen."""
    assert derive("step", 3, 0, 0) == 800036095388685770


def test_steps_and_ranks_draw_differently_and_repeatably() -> None:
    def draw(seed: int, step: int, rank: int) -> float:
        seed_step(seed, step, rank)
        return torch.rand(1).item()

    drawn = [draw(3, 0, 0), draw(3, 1, 0), draw(3, 0, 1), draw(4, 0, 0)]
    assert len(set(drawn)) == 4
    assert draw(3, 0, 0) == drawn[0]


@pytest.fixture
def _restored() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cudnn.benchmark = before[1]


@pytest.mark.usefixtures("_restored")
def test_make_deterministic_configures_torch_and_cublas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that monkeypatch restores the old value
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    make_deterministic()
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
