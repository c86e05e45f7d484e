"""A registered plan of fake trials."""

from pathlib import Path

import numpy as np
import pytest
from armflow.evaluation.fake import FakeTrials
from armflow.evaluation.registration import Registration, TrialRequest, register
from armflow.evaluation.trials import Policy

POLICIES = {"base": 0.1, "sft": 0.45, "q-vgm": 0.8}


@pytest.fixture
def request_12() -> TrialRequest:
    """Three policies, two tasks, twelve seeds each."""
    return TrialRequest(
        policies=tuple(Policy(name, fingerprint=f"{name}-checkpoint") for name in POLICIES),
        reference="sft",
        seeds={"pick_peach": range(1000, 1012), "stack_bowls": range(5000, 5012)},
    )


@pytest.fixture
def fake() -> FakeTrials:
    return FakeTrials(POLICIES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "trials"


@pytest.fixture
def registration(folder: Path, request_12: TrialRequest) -> Registration:
    return register(folder, request_12, np.random.default_rng(0))
