"""Benchmarks run, whatever they measure on a shared machine."""

import pytest
from armflow.evaluation.benchmarks import chunk, qvgm_step


def test_a_chunk_is_timed_in_its_parts(capsys: pytest.CaptureFixture[str]) -> None:
    chunk(repeats=1)
    printed = capsys.readouterr().out
    assert all(part in printed for part in ("prefix", "flow", "chunk"))


def test_a_qvgm_step_is_compared_with_the_naive_one(capsys: pytest.CaptureFixture[str]) -> None:
    qvgm_step(states=2, repeats=1)
    assert "median ratio" in capsys.readouterr().out
