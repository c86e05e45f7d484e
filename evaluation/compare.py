"""From results to a comparison: rates, paired differences and the tests that were planned.

Two families of tests, each Holm-adjusted on its own: all candidates pooled over tasks (the main question), and all
candidates on all tasks (where the difference comes from).
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from ..robot.errors import ConfigError, DataError
from .registration import Registration
from .statistics import Interval, PairTable, Rate, holm, mcnemar_exact, pair_table, paired_difference, wilson
from .trials import TrialOutcome, TrialResult

Verdict = Literal["better", "worse", "undecided"]
Block = tuple[str, int]
"""Task and seed: one start, met by every policy."""


@dataclass(frozen=True)
class Summary:
    """One policy on one task, or on all of them."""

    policy: str
    task: str | None  # None: pooled over tasks
    rate: Rate
    progress: float  # mean share of the milestones that was reached
    milestones: tuple[int, ...]  # trials that reached exactly k, for k = 0 .. most
    failures: Mapping[str, int]  # end reason -> failed trials, most frequent first
    truncated: int  # trials cut off by the time limit
    median_success_s: float | None  # robot time of successful trials; None if there are none
    safety_flags: int  # steps whose command the safety filter changed


@dataclass(frozen=True)
class Contrast:
    """A candidate against the reference."""

    policy: str
    task: str | None  # None: pooled over tasks
    table: PairTable
    difference: float  # candidate's rate minus the reference's
    interval: Interval
    p_value: float  # exact McNemar, unadjusted
    p_holm: float
    verdict: Verdict  # undecided as long as trials are missing


@dataclass(frozen=True)
class Comparison:
    plan_sha256: str
    alpha: float
    reference: str
    registered: bool  # whether the plan names this reference; if not, the tests are exploratory
    policies: tuple[str, ...]
    tasks: tuple[str, ...]  # with at least one seed finished by every policy
    finished: int  # trials
    planned: int
    summaries: tuple[Summary, ...]  # each policy on each task, then pooled
    contrasts: tuple[Contrast, ...]  # each candidate on each task, then pooled

    @property
    def complete(self) -> bool:
        return self.finished == self.planned

    @property
    def candidates(self) -> tuple[str, ...]:
        return tuple(policy for policy in self.policies if policy != self.reference)

    @property
    def scopes(self) -> tuple[str | None, ...]:
        """What there is to show: the tasks and their pool, or the pool alone where it is the only task."""
        return (*self.tasks, None) if len(self.tasks) > 1 else (None,)

    def summary(self, policy: str, task: str | None = None) -> Summary:
        return next(s for s in self.summaries if (s.policy, s.task) == (policy, task))

    def contrast(self, policy: str, task: str | None = None) -> Contrast:
        return next(c for c in self.contrasts if (c.policy, c.task) == (policy, task))


def compare(registration: Registration, results: Sequence[TrialResult], *, reference: str | None = None) -> Comparison:
    """Unblind and compare, on the blocks that every policy has finished.

    `reference` replaces the registered one for an exploratory look.
    Raises ConfigError if the reference is unknown, DataError if no block is finished yet.
    """
    plan = registration.plan
    names = {code: policy.name for code, policy in registration.key.policies.items()}
    registered = names[registration.key.reference]
    reference = reference or registered
    if reference not in names.values():
        raise ConfigError(f"reference {reference!r} is not among the policies: {', '.join(names.values())}")
    outcomes = outcomes_by_policy(registration, results)
    if not outcomes[reference]:
        raise DataError(f"no seed is finished by all of {', '.join(outcomes)}: there is nothing to compare yet")
    complete = len(results) == len(plan.trials)
    tasks = tuple(dict.fromkeys(task for task, _ in outcomes[reference]))
    candidates = [name for name in outcomes if name != reference]
    contrasts = [
        [_contrast(outcomes, name, reference, task, plan.alpha) for name in candidates for task in family]
        for family in (tasks, (None,))
    ]
    return Comparison(
        plan_sha256=plan.sha256,
        alpha=plan.alpha,
        reference=reference,
        registered=reference == registered,
        policies=tuple(outcomes),
        tasks=tasks,
        finished=len(results),
        planned=len(plan.trials),
        summaries=tuple(
            _summary(outcomes[name], name, task, plan.alpha) for name in outcomes for task in (*tasks, None)
        ),
        contrasts=tuple(contrast for family in contrasts for contrast in _decide(family, plan.alpha, complete)),
    )


def outcomes_by_policy(
    registration: Registration, results: Iterable[TrialResult]
) -> dict[str, dict[Block, TrialOutcome]]:
    """Policy -> block -> outcome, in the plan's order, of the blocks that every policy has finished."""
    by_code: dict[str, dict[Block, TrialOutcome]] = {code: {} for code in registration.key.policies}
    for result in results:
        by_code[result.trial.code][result.trial.task, result.trial.seed] = result.outcome
    blocks = dict.fromkeys((trial.task, trial.seed) for trial in registration.plan.trials)
    finished = [block for block in blocks if all(block in done for done in by_code.values())]
    return {
        policy.name: {block: by_code[code][block] for block in finished}
        for code, policy in registration.key.policies.items()
    }


def save_comparison(comparison: Comparison, path: Path) -> None:
    """Write all numbers as JSON."""
    path.write_text(json.dumps(asdict(comparison), indent=1) + "\n")


def _of_task(outcomes: Mapping[Block, TrialOutcome], task: str | None) -> list[TrialOutcome]:
    return [outcome for (of, _), outcome in outcomes.items() if task in (None, of)]


def _summary(outcomes: Mapping[Block, TrialOutcome], policy: str, task: str | None, alpha: float) -> Summary:
    trials = _of_task(outcomes, task)
    failures = Counter(trial.end_reason for trial in trials if not trial.success)
    success_s = [trial.duration_s for trial in trials if trial.success]
    return Summary(
        policy=policy,
        task=task,
        rate=wilson(sum(trial.success for trial in trials), len(trials), confidence=1 - alpha),
        progress=float(np.mean([t.milestones / t.milestones_total if t.milestones_total else 0 for t in trials])),
        milestones=tuple(
            sum(trial.milestones == k for trial in trials)
            for k in range(max(trial.milestones_total for trial in trials) + 1)
        ),
        failures=dict(failures.most_common()),
        truncated=sum(not trial.terminated for trial in trials),
        median_success_s=float(np.median(success_s)) if success_s else None,
        safety_flags=sum(trial.safety_flags for trial in trials),
    )


def _contrast(
    outcomes: Mapping[str, Mapping[Block, TrialOutcome]], policy: str, reference: str, task: str | None, alpha: float
) -> Contrast:
    candidate, base = ([outcome.success for outcome in _of_task(outcomes[name], task)] for name in (policy, reference))
    table = pair_table(candidate, base)
    p_value = mcnemar_exact(table)
    interval = paired_difference(table, confidence=1 - alpha)
    return Contrast(policy, task, table, table.difference, interval, p_value, p_holm=1.0, verdict="undecided")


def _decide(family: list[Contrast], alpha: float, complete: bool) -> list[Contrast]:
    """Adjust the p-values of a family and judge, unless trials are missing: looking early is not the planned test."""
    adjusted = holm([contrast.p_value for contrast in family])
    return [
        replace(contrast, p_holm=p, verdict=_verdict(contrast.difference, p <= alpha and complete))
        for contrast, p in zip(family, adjusted, strict=True)
    ]


def _verdict(difference: float, rejected: bool) -> Verdict:
    if not rejected:
        return "undecided"
    return "better" if difference > 0 else "worse"
