"""What a scored trial is, and the plan that fixes all trials before the first one runs.

Whoever scores sees the plan and the results: policies appear there as blind codes only. The key that names them is
another file; the plan holds its hash, so that the names cannot be exchanged afterwards.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property

from ..robot.errors import DataError


@dataclass(frozen=True)
class Trial:
    """One planned trial. Trials of one task and seed form a block: the same start for every policy."""

    id: str  # position in the plan, "0000" first
    task: str
    seed: int
    code: str  # blind code of the policy


@dataclass(frozen=True)
class TrialOutcome:
    """What running a trial reports. A safety stop is a failure, not an exception."""

    success: bool
    end_reason: str  # "success" or why not; failures are counted by it
    terminated: bool  # False: cut off by the time limit
    milestones: int  # reached, 0..milestones_total
    milestones_total: int
    duration_s: float  # robot time
    steps: int
    safety_flags: int  # steps whose command the safety filter changed

    def __post_init__(self) -> None:
        if not 0 <= self.milestones <= self.milestones_total:
            raise DataError(f"{self.milestones} milestones reached of {self.milestones_total}: valid are 0..total")


@dataclass(frozen=True)
class TrialResult:
    trial: Trial
    outcome: TrialOutcome
    video: str | None  # path relative to the folder of the trials


@dataclass(frozen=True)
class Policy:
    """A policy under test. `fingerprint` (a checkpoint hash) ties the name to what really runs."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class TrialKey:
    """Who is behind the codes."""

    reference: str  # code of the policy that the others are compared with
    policies: Mapping[str, Policy]  # by code, in the order in which reports list them
    salt: str  # keeps the key's hash from being guessed by trying names

    @cached_property
    def sha256(self) -> str:
        return digest(asdict(self))


@dataclass(frozen=True)
class TrialPlan:
    """Everything that is decided before trial one."""

    alpha: float  # two-sided level of every test; intervals cover 1 - alpha
    key_sha256: str
    trials: tuple[Trial, ...]  # in the order in which they run

    @cached_property
    def sha256(self) -> str:
        return digest(asdict(self))

    @cached_property
    def by_id(self) -> dict[str, Trial]:
        return {trial.id: trial for trial in self.trials}

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(trial.task for trial in self.trials))

    def seeds(self, task: str) -> tuple[int, ...]:
        return tuple(dict.fromkeys(trial.seed for trial in self.trials if trial.task == task))


def digest(content: Mapping[str, object]) -> str:
    """SHA-256 of the canonical JSON of `content`."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
