"""A whole comparison of agents in the twin: what `eval compare`, the trial of a critic and the demo have in common."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from ..robot.rig import Rig
from .agents import AnyAgent
from .registration import TrialRequest
from .report import Extra
from .study import Study, run_study
from .trials import Policy
from .twin_trials import TwinTrials


def twin_study(
    folder: Path,
    rig: Rig,
    agents: Mapping[str, AnyAgent],
    seeds: Mapping[str, Sequence[int]],
    *,
    workers: int,
    title: str,
    extras: Sequence[Extra] = (),
    console: Console | None = None,
) -> Study:
    """Compare agents with the first of them, on seeds by task; an interrupted study is resumed."""
    request = TrialRequest(
        policies=tuple(Policy(name, agent.fingerprint) for name, agent in agents.items()),
        reference=next(iter(agents)),
        seeds=seeds,
    )
    rng = np.random.default_rng()  # codes and orders are drawn once and kept in the plan
    return run_study(
        folder, request, TwinTrials(rig, agents), rng=rng, workers=workers, title=title, extras=extras, console=console
    )
