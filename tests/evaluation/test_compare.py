"""From outcomes to claims: pairs are matched, families adjusted, and nothing is claimed early."""

import json
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from armflow.evaluation.compare import Comparison, compare, save_comparison
from armflow.evaluation.registration import Registration, TrialRequest, draw
from armflow.evaluation.statistics import PairTable, holm, mcnemar_exact, wilson
from armflow.evaluation.table import rich_table
from armflow.evaluation.trials import Policy, TrialOutcome, TrialResult
from armflow.evaluation.wording import conclusions, p_text, points
from armflow.robot.errors import ConfigError, DataError
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

OUTCOME = TrialOutcome(True, "success", True, 4, 4, duration_s=8.0, steps=80, safety_flags=1)
FAILURE = replace(OUTCOME, success=False, end_reason="dropped", milestones=2, duration_s=15.0, terminated=False)


def registered(n: int, tasks: tuple[str, ...] = ("pick_peach", "stack_bowls")) -> Registration:
    policies = tuple(Policy(name, name) for name in ("sft", "q-selection", "q-vgm"))
    return draw(TrialRequest(policies, "sft", {task: range(n) for task in tasks}), np.random.default_rng(0))


def played(registration: Registration, succeeds: Callable[[str, str, int], bool]) -> list[TrialResult]:
    """Results in an order that has nothing to do with the plan's, as several workers give them."""
    names = {code: policy.name for code, policy in registration.key.policies.items()}
    order = np.random.default_rng(1).permutation(len(registration.plan.trials))
    trials = [registration.plan.trials[i] for i in order]
    return [
        TrialResult(trial, OUTCOME if succeeds(names[trial.code], trial.task, trial.seed) else FAILURE, None)
        for trial in trials
    ]


def clear_win(policy: str, task: str, seed: int) -> bool:
    """q-vgm solves 18 of 20 seeds of each task, sft and q-selection the first 8."""
    return seed < (18 if policy == "q-vgm" else 8)


@pytest.fixture
def comparison() -> Comparison:
    registration = registered(20)
    return compare(registration, played(registration, clear_win))


def test_pairs_are_matched_by_seed_whatever_the_order(comparison: Comparison):
    contrast = comparison.contrast("q-vgm", "pick_peach")
    assert contrast.table == PairTable(both=8, candidate_only=10, reference_only=0, neither=2)
    assert contrast.difference == pytest.approx(0.5)
    assert contrast.interval.low < 0.5 < contrast.interval.high


def test_pooled_rows_pool_the_pairs_of_all_tasks(comparison: Comparison):
    by_task = [comparison.contrast("q-vgm", task).table for task in comparison.tasks]
    assert comparison.contrast("q-vgm").table == by_task[0] + by_task[1]
    assert comparison.summary("q-vgm").rate == wilson(36, 40)


def test_each_family_is_holm_adjusted_on_its_own(comparison: Comparison):
    for scopes in (comparison.tasks, (None,)):
        family = [comparison.contrast(policy, task) for policy in comparison.candidates for task in scopes]
        raw = [mcnemar_exact(contrast.table) for contrast in family]
        assert [contrast.p_value for contrast in family] == raw
        assert [contrast.p_holm for contrast in family] == list(holm(raw))


def test_summaries_describe_the_trials(comparison: Comparison):
    summary = comparison.summary("sft", "stack_bowls")
    assert summary.milestones == (0, 0, 12, 0, 8) and summary.failures == {"dropped": 12}
    assert summary.progress == pytest.approx((8 + 12 / 2) / 20)
    assert (summary.truncated, summary.median_success_s, summary.safety_flags) == (12, 8.0, 20)


def test_only_a_rejection_says_better(comparison: Comparison):
    selection, vgm = conclusions(comparison)
    assert comparison.contrast("q-vgm").verdict == "better"
    assert vgm.startswith("q-vgm is better than sft: 36 against 16 of 40 trials, +50 points")
    assert selection.startswith("No difference between q-selection and sft was shown")


def test_a_loss_is_called_worse():
    registration = registered(20)
    comparison = compare(registration, played(registration, lambda policy, task, seed: policy == "sft" or seed < 9))
    assert all("is worse than sft" in sentence for sentence in conclusions(comparison))


@given(st.integers(0, 2**32 - 1), st.floats(0.2, 0.8))
def test_the_wording_never_outruns_the_test(seed: int, rate: float):
    registration = registered(12, tasks=("pick_peach",))
    rng = np.random.default_rng(seed)
    comparison = compare(registration, played(registration, lambda *_: bool(rng.random() < rate)))
    for policy, sentence in zip(comparison.candidates, conclusions(comparison), strict=True):
        contrast = comparison.contrast(policy)
        assert ("better" in sentence) == (contrast.p_holm <= 0.05 and contrast.difference > 0)
        assert ("worse" in sentence) == (contrast.p_holm <= 0.05 and contrast.difference < 0)


def test_false_claims_stay_below_alpha_when_all_policies_are_equal():
    registration = registered(30, tasks=("pick_peach",))
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        comparison = compare(registration, played(registration, lambda *_: bool(rng.random() < 0.5)))
        wrong += any(contrast.verdict != "undecided" for contrast in comparison.contrasts if contrast.task is None)
    assert wrong / 200 <= 0.05 + 0.03  # 0.03 is two standard errors of 200 repetitions


def test_nothing_is_concluded_before_the_plan_is_done():
    registration = registered(20)
    comparison = compare(registration, played(registration, clear_win)[:-1])
    assert not comparison.complete
    assert {contrast.verdict for contrast in comparison.contrasts} == {"undecided"}
    (sentence,) = conclusions(comparison)
    assert "119 of 120" in sentence and "better" not in sentence


def test_unfinished_blocks_are_left_out():
    registration = registered(20)
    results = played(registration, clear_win)
    missing = next(result for result in results if result.trial.task == "pick_peach" and result.trial.seed == 3)
    comparison = compare(registration, [result for result in results if result != missing])
    assert {comparison.summary(policy, "pick_peach").rate.n for policy in comparison.policies} == {19}


def test_a_task_that_has_not_started_is_left_out():
    registration = registered(20)
    first = [result for result in played(registration, clear_win) if result.trial.task == "pick_peach"]
    assert compare(registration, first).tasks == ("pick_peach",)


def test_without_a_finished_block_there_is_nothing_to_compare():
    with pytest.raises(DataError, match="nothing to compare yet"):
        compare(registered(5), [])


def test_another_reference_is_exploratory():
    registration = registered(20)
    comparison = compare(registration, played(registration, clear_win), reference="q-selection")
    assert comparison.candidates == ("sft", "q-vgm") and not comparison.registered
    assert all("Exploratory" in sentence for sentence in conclusions(comparison))
    with pytest.raises(ConfigError, match="not among the policies: sft"):
        compare(registration, played(registration, clear_win), reference="oracle")


def test_comparison_is_saved_as_json(comparison: Comparison, tmp_path: Path):
    save_comparison(comparison, tmp_path / "comparison.json")
    saved = json.loads((tmp_path / "comparison.json").read_text())
    assert saved["plan_sha256"] == comparison.plan_sha256
    assert {row["verdict"] for row in saved["contrasts"] if row["policy"] == "q-vgm"} == {"better"}


def test_the_terminal_table_shows_every_policy_on_every_task(comparison: Comparison):
    console = Console(width=120, file=StringIO())
    with console.capture() as captured:
        console.print(rich_table(comparison))
    table = captured.get()
    for text in (
        "pick_peach",
        "all tasks",
        "36/40",
        "90%",
        "+50",
        "reference",
        p_text(comparison.contrast("q-vgm").p_holm),
    ):
        assert text in table


def test_numbers_read_well():
    assert [points(x) for x in (0.333, -0.05, 0.001, -0.001)] == ["+33", "\N{MINUS SIGN}5", "0", "0"]
    assert [p_text(p) for p in (1.0, 0.24, 0.064, 0.0031, 0.00001)] == ["1.00", "0.24", "0.064", "0.0031", "<0.0001"]
