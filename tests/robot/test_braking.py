"""The arithmetic of stopping in time."""

import numpy as np
import pytest
from armflow.robot.braking import braking, largest_change, longest_step
from hypothesis import given
from hypothesis import strategies as st

steps = st.floats(0, 10)
changes = st.floats(1e-3, 10)


def way(step: float, change: float) -> float:
    """How far a joint still goes that moves by `step` now and then brakes, played through."""
    total, u = 0.0, np.array([step])
    while u.any():
        total, u = total + float(u[0]), braking(u, np.array([change]))
    return total


@given(steps, changes)
def test_the_longest_step_is_the_one_that_ends_where_the_room_ends(step: float, change: float):
    room = np.array([way(step, change)])
    np.testing.assert_allclose(longest_step(room, np.array([change])), step, atol=1e-9)


@given(st.floats(0, 100), changes)
def test_after_the_longest_step_there_is_room_to_brake(room: float, change: float):
    (u,) = longest_step(np.array([room]), np.array([change]))
    assert 0 <= u <= room
    assert way(u, change) == pytest.approx(room, abs=1e-9)


def test_beyond_the_end_no_step_leads_further():
    np.testing.assert_array_equal(longest_step(np.array([-0.3]), np.array([0.01])), [0.0])


@given(st.floats(-10, 10), changes)
def test_braking_changes_no_step_by_more_than_allowed_and_turns_none_round(step: float, change: float):
    (u,) = braking(np.array([step]), np.array([change]))
    assert abs(u - step) <= change + 1e-12
    assert u * step >= 0 and abs(u) <= abs(step)


@given(st.floats(0.1, 100), st.floats(0.1, 1e4), st.floats(1e-3, 1.0))
def test_steps_that_change_by_no_more_keep_acceleration_and_jerk(ddq: float, jerk: float, dt: float):
    (change,) = largest_change(np.array([ddq]), np.array([jerk]), dt)
    assert change / dt**2 <= ddq * (1 + 1e-12)
    assert 2 * change / dt**3 <= jerk * (1 + 1e-12), "the worst: from full acceleration to full deceleration"
    assert change / dt**2 == pytest.approx(min(ddq, jerk * dt / 2)), "and it is no stricter than that"


def test_without_a_jerk_limit_the_acceleration_counts():
    np.testing.assert_allclose(largest_change(np.array([5.0]), None, 0.1), [0.05])
