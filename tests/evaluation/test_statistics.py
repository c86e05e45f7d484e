"""Intervals and tests against independent oracles, and the properties that make them usable."""

from itertools import combinations, product
from math import comb, sqrt
from typing import Any

import numpy as np
import pytest
from armflow.evaluation.statistics import PairTable, holm, mcnemar_exact, pair_table, paired_difference, wilson
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import multinomial

counts = st.integers(0, 60)
tables = st.builds(PairTable, counts, counts, counts, counts).filter(lambda table: table.n > 0)


def swapped(table: PairTable) -> PairTable:
    return PairTable(table.both, table.reference_only, table.candidate_only, table.neither)


def test_wilson_matches_the_published_example():
    rate = wilson(12, 20)
    assert (rate.value, rate.interval.low, rate.interval.high) == pytest.approx((0.6, 0.387, 0.781), abs=5e-4)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_rate_and_mirrors(case: tuple[int, int]):
    k, n = case
    rate, mirrored = wilson(k, n), wilson(n - k, n)
    assert 0 <= rate.interval.low <= rate.value <= rate.interval.high <= 1
    assert rate.interval.low == pytest.approx(1 - mirrored.interval.high, abs=1e-9)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1))
def test_pair_table_keeps_every_pair(pairs: list[tuple[bool, bool]]):
    candidate, reference = zip(*pairs, strict=True)
    table = pair_table(candidate, reference)
    assert table.n == len(pairs)
    assert table.both + table.candidate_only == sum(candidate)
    assert table.difference == pytest.approx(np.mean(candidate) - np.mean(reference))


def test_pair_table_refuses_unpaired_outcomes():
    with pytest.raises(ValueError):
        pair_table([True], [True, False])


@given(tables)
def test_mcnemar_is_the_fair_coin_of_discordant_pairs(table: PairTable):
    b, c = table.candidate_only, table.reference_only
    tail = sum(comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    assert mcnemar_exact(table) == pytest.approx(min(1.0, 2 * tail))


# (b, c, n) -> low, high of Tango's interval, by fieldtrial 0.3.0, an independent implementation
TANGO = {
    (10, 2, 50): (0.0280579938, 0.3005048114),
    (0, 0, 20): (-0.1611251581, 0.1611251581),
    (1, 0, 44): (-0.0593932311, 0.1180770970),
    (7, 0, 7): (0.2913391299, 1.0),
    (0, 9, 30): (-0.4787578746, -0.1524325889),
    (5, 5, 10): (-0.5268138190, 0.5268138190),
    (16, 4, 100): (0.0355675983, 0.2119606797),
    (60, 15, 200): (0.1452343506, 0.3040728089),
}


@pytest.mark.parametrize(("case", "expected"), TANGO.items())
def test_paired_difference_matches_an_independent_implementation(
    case: tuple[int, int, int], expected: tuple[float, float]
):
    b, c, n = case
    interval = paired_difference(PairTable(0, b, c, n - b - c))
    assert (interval.low, interval.high) == pytest.approx(expected, abs=1e-8)


def score_statistic(b: int, c: int, n: int, delta: float) -> float:
    """T(delta) from first principles: the nuisance by numerical maximum likelihood, no closed form."""

    def negative_likelihood(q: float) -> float:
        cells = np.clip([q + delta, q, 1 - 2 * q - delta], 1e-300, 1)
        return -float(np.dot([b, c, n - b - c], np.log(cells)))

    found: Any = minimize_scalar(
        negative_likelihood, bounds=(max(0, -delta), (1 - delta) / 2), method="bounded", options={"xatol": 1e-12}
    )
    q = found.x
    return (b - c - n * delta) / sqrt(n * (2 * q + delta - delta**2))


@pytest.mark.parametrize(("b", "c", "n"), [(10, 2, 50), (3, 8, 25), (40, 15, 120), (1, 4, 9)])
def test_paired_difference_ends_where_the_score_test_starts_to_reject(b: int, c: int, n: int):
    interval = paired_difference(PairTable(0, b, c, n - b - c), confidence=0.9)
    assert score_statistic(b, c, n, interval.low) == pytest.approx(1.6448536, abs=1e-4)
    assert score_statistic(b, c, n, interval.high) == pytest.approx(-1.6448536, abs=1e-4)


@given(tables)
def test_paired_difference_holds_the_estimate_and_mirrors(table: PairTable):
    interval, mirrored = paired_difference(table), paired_difference(swapped(table))
    assert -1 <= interval.low <= table.difference <= interval.high <= 1
    assert interval.low == pytest.approx(-mirrored.high, abs=1e-9)


@given(tables)
def test_more_confidence_is_wider_and_more_pairs_are_narrower(table: PairTable):
    interval, wider = paired_difference(table), paired_difference(table, confidence=0.99)
    pooled = paired_difference(table + table)
    assert wider.low <= interval.low and interval.high <= wider.high
    assert pooled.high - pooled.low <= interval.high - interval.low + 1e-9


@pytest.mark.parametrize(("p_candidate_only", "p_reference_only"), [(0.1, 0.1), (0.3, 0.1), (0.45, 0.05), (0.05, 0.0)])
def test_paired_difference_covers_the_truth_at_twenty_pairs(p_candidate_only: float, p_reference_only: float):
    n, delta = 20, p_candidate_only - p_reference_only
    cells = [p_candidate_only, p_reference_only, 1 - p_candidate_only - p_reference_only]
    covered = 0.0
    for b, c in product(range(n + 1), repeat=2):
        if b + c > n:
            continue
        interval = paired_difference(PairTable(0, b, c, n - b - c))
        if interval.low <= delta <= interval.high:
            covered += float(multinomial.pmf([b, c, n - b - c], n, cells))
    assert covered > 0.93  # nominal 0.95; the Wald interval falls to 0.64 at the last point


def test_holm_matches_its_worked_example():
    # sorted p times (m, m-1, ..., 1), made monotone and cut at 1
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([]) == ()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(p_values: list[float]):
    """The definition: a hypothesis falls when every set of hypotheses with it falls, a set by its size times min p."""
    sets = [chosen for size in range(1, len(p_values) + 1) for chosen in combinations(range(len(p_values)), size)]
    closed = [
        max(min(1.0, len(chosen) * min(p_values[i] for i in chosen)) for chosen in sets if one in chosen)
        for one in range(len(p_values))
    ]
    assert holm(p_values) == pytest.approx(closed)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_no_correction_and_bonferroni(p_values: list[float]):
    for raw, adjusted in zip(p_values, holm(p_values), strict=True):
        assert raw - 1e-12 <= adjusted <= min(1.0, raw * len(p_values)) + 1e-12
