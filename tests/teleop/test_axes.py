"""The curve from a stick to a wish."""

import numpy as np
import pytest
from armflow.teleop.axes import shaped
from hypothesis import given
from hypothesis import strategies as st


def one(reading: float, power: float = 2.0) -> float:
    return float(shaped(np.array([reading]), dead_zone=0.15, power=power)[0])


@pytest.mark.parametrize("reading", [0.0, 0.1, -0.1, 0.15, -0.15])
def test_nothing_within_the_dead_zone(reading: float) -> None:
    assert one(reading) == 0.0


def test_no_jump_at_its_edge() -> None:
    assert 0 < one(0.151, power=1.0) < 0.002


@pytest.mark.parametrize("reading", [1.0, 1.3])
def test_full_deflection_is_full_speed_and_never_more(reading: float) -> None:
    assert (one(reading), one(-reading)) == (1.0, -1.0)


def test_a_higher_power_is_finer_in_the_middle() -> None:
    assert one(0.5, power=1.0) == pytest.approx(0.35 / 0.85)
    assert one(0.5, power=2.0) == pytest.approx((0.35 / 0.85) ** 2)


@given(st.floats(-1.5, 1.5), st.floats(-1.5, 1.5), st.sampled_from([1.0, 2.0, 3.0]))
def test_more_deflection_is_never_less_speed_and_both_sides_are_alike(a: float, b: float, power: float) -> None:
    low, high = sorted((a, b))
    assert one(low, power) <= one(high, power)
    assert one(-a, power) == -one(a, power)
