"""Seeds of different purposes never meet."""

from itertools import combinations, pairwise
from typing import Any, cast

import pytest
from armflow.robot.errors import ConfigError
from armflow.robot.seeds import RANGES, REPETITION, REPETITIONS, SLOT, SeedRange, purpose_of, seeds
from hypothesis import given
from hypothesis import strategies as st

TASKS = ("pick_peach", "stack_bowls")


def test_ranges_are_named_once_and_never_overlap():
    assert len({r.purpose for r in RANGES}) == len(RANGES)
    for a, b in pairwise(sorted(RANGES, key=lambda r: r.start)):
        assert a.start < a.stop <= b.start
    for r in RANGES:
        assert r.stop - r.start == REPETITIONS * REPETITION
        assert r.stop < 2**31


def test_purposes_tasks_and_repetitions_share_no_seed():
    blocks = [set(seeds(r.purpose, task, 500, k)) for r in RANGES for task in TASKS for k in range(3)]
    assert all(not a & b for a, b in combinations(blocks, 2))


@given(st.sampled_from(RANGES), st.text(), st.integers(0, SLOT), st.integers(0, REPETITIONS - 1))
def test_every_task_stays_within_its_purpose(seed_range: SeedRange, task: str, n: int, repetition: int):
    block = seeds(seed_range.purpose, task, n, repetition)
    assert len(block) == n
    assert {purpose_of(seed) for seed in (*block[:1], *block[-1:])} <= {seed_range.purpose}


def test_more_seeds_extend_fewer():
    assert list(seeds("evaluation", "pick_peach", 100))[:50] == list(seeds("evaluation", "pick_peach", 50))


@pytest.mark.parametrize(
    ("purpose", "n", "repetition", "message"),
    [
        ("exam", 5, 0, "demos, rollouts"),
        ("demos", SLOT + 1, 0, "per task"),
        ("demos", -1, 0, "per task"),
        ("demos", 5, REPETITIONS, "valid are"),
    ],
)
def test_what_does_not_exist_is_refused(purpose: str, n: int, repetition: int, message: str):
    with pytest.raises(ConfigError, match=message):
        seeds(cast(Any, purpose), "pick_peach", n, repetition)


def test_a_number_typed_by_hand_has_no_purpose():
    assert purpose_of(2**31 - 1) is None
