"""No sequence of targets makes the path leave its limits, checked on finite differences of what it gives out."""

from collections.abc import Callable

import numpy as np
import pytest
from armflow.robot import fr3
from armflow.robot.drivers.franka import FrankaCfg
from armflow.robot.errors import ConfigError
from armflow.robot.interpolator import Interpolator, MotionLimits, Setpoint
from armflow.robot.types import Floats
from hypothesis import given
from hypothesis import strategies as st

SPEC = fr3.SPEC
LIMITS = {
    "vendor": MotionLimits(SPEC.q_min, SPEC.q_max, SPEC.dq_max, SPEC.ddq_max, fr3.JERK_MAX),
    "driver": FrankaCfg("nowhere").limits(fr3.SPEC),
}
# Divided differences of a path are averages of its derivatives, so the limits bound them exactly; what is left is rounding,
# of 1e-15 rad by the shortest tick to the third power.
TOLERANCE = 1e-4  # of each limit
TICKS_S = (0.0005, 0.002, 0.005, 0.006, 0.02)


def run(path: Interpolator, rng: np.random.Generator, steps: int) -> tuple[Floats, list[Setpoint]]:
    """Times and setpoints of a path under jumps, small moves, nonsense beyond the range, stalls, brakes, irregular ticks."""
    limits = path.limits
    aims: list[Callable[[], object]] = [
        lambda: path.aim(rng.uniform(limits.q_min, limits.q_max)),
        lambda: path.aim(path.setpoint.q + 0.05 * rng.standard_normal(7)),
        lambda: path.aim(np.where(rng.random(7) < 0.5, limits.q_min, limits.q_max)),
        lambda: path.aim(1e3 * rng.standard_normal(7)),
        path.brake,
    ]
    t, times, setpoints = 0.0, [], []
    change_in = np.minimum(rng.geometric(rng.choice([0.5, 0.05, 0.005], steps)), 500)
    ticks, until_change = rng.choice(TICKS_S, steps), 0
    for i in range(steps):
        if until_change == 0:
            aims[rng.integers(len(aims))]()
            until_change = change_in[i]
        until_change -= 1
        t += ticks[i]
        times.append(t)
        setpoints.append(path.step(ticks[i]))
    return np.array(times), setpoints


def excess(t: Floats, setpoints: list[Setpoint], limits: MotionLimits) -> dict[str, float]:
    """By how much what was sent exceeds each limit, as a fraction of it; in rad for the range."""
    q, dq = np.array([s.q for s in setpoints]), np.array([s.dq for s in setpoints])
    velocity = np.diff(q, axis=0) / np.diff(t)[:, None]
    acceleration = 2 * np.diff(velocity, axis=0) / (t[2:] - t[:-2])[:, None]
    jerk = 3 * np.diff(acceleration, axis=0) / (t[3:] - t[:-3])[:, None]
    acceleration_of_dq = np.diff(dq, axis=0) / np.diff(t)[:, None]
    jerk_of_dq = 2 * np.diff(acceleration_of_dq, axis=0) / (t[2:] - t[:-2])[:, None]
    return {
        "range": float(max((q - limits.q_max).max(), (limits.q_min - q).max())),
        "velocity": float((np.abs(velocity) / limits.dq_max).max() - 1),
        "acceleration": float((np.abs(acceleration) / limits.ddq_max).max() - 1),
        "jerk": float((np.abs(jerk) / limits.jerk_max).max() - 1),
        "dq": float((np.abs(dq) / limits.dq_max).max() - 1),
        "acceleration of dq": float((np.abs(acceleration_of_dq) / limits.ddq_max).max() - 1),
        "jerk of dq": float((np.abs(jerk_of_dq) / limits.jerk_max).max() - 1),
    }


def assert_within(limits: MotionLimits, steps: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    t, setpoints = run(Interpolator(limits, rng.uniform(limits.q_min, limits.q_max)), rng, steps)
    worst = excess(t, setpoints, limits)
    assert worst.pop("range") < 1e-9, seed
    assert max(worst.values()) < TOLERANCE, (seed, worst)


@pytest.mark.parametrize("name", LIMITS)
def test_no_sequence_of_targets_leaves_the_limits(name: str):
    for seed in range(4):
        assert_within(LIMITS[name], steps=15_000, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", LIMITS)
def test_no_long_sequence_of_targets_leaves_the_limits(name: str):
    for seed in range(10, 20):
        assert_within(LIMITS[name], steps=50_000, seed=seed)


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.01, 1.0), steps=st.integers(4, 200))
def test_limits_of_any_size_are_kept(seed: int, scale: float, steps: int):
    vendor = LIMITS["vendor"]
    limits = MotionLimits(
        SPEC.q_min, SPEC.q_max, scale * vendor.dq_max, scale * vendor.ddq_max, scale * vendor.jerk_max
    )
    assert_within(limits, steps, seed)


def test_the_check_sees_a_step():
    """Else the tests above would prove nothing."""
    limits, t = LIMITS["driver"], 0.005 * np.arange(20)
    still = Setpoint((limits.q_min + limits.q_max) / 2, np.zeros(7), np.zeros(7))
    moved = Setpoint(still.q + 0.02, still.dq, still.ddq)
    worst = excess(t.astype(np.float64), [still] * 10 + [moved] * 10, limits)
    assert min(worst["velocity"], worst["acceleration"], worst["jerk"]) > 0


def test_the_driver_stays_below_the_speeds_allowed_near_the_ends_of_the_range():
    rng, limits = np.random.default_rng(0), LIMITS["driver"]
    _, setpoints = run(Interpolator(limits, rng.uniform(limits.q_min, limits.q_max)), rng, 20_000)
    for setpoint in setpoints:
        low, high = fr3.velocity_limits(setpoint.q)
        assert (setpoint.dq > low).all() and (setpoint.dq < high).all()


def test_a_target_is_reached_and_kept():
    limits = LIMITS["driver"]
    path = Interpolator(limits, (limits.q_min + limits.q_max) / 2)
    goal = path.setpoint.q + 0.3
    np.testing.assert_array_equal(path.aim(goal), goal)
    for _ in range(1000):
        path.step(0.005)
    assert path.at_rest
    np.testing.assert_allclose(path.setpoint.q, goal, atol=1e-6)


def test_targets_are_clipped_to_the_range():
    limits = LIMITS["driver"]
    path = Interpolator(limits, (limits.q_min + limits.q_max) / 2)
    np.testing.assert_array_equal(path.aim(np.full(7, 99.0)), limits.q_max)


def test_a_path_that_starts_outside_the_range_only_leads_back_in():
    limits = LIMITS["driver"]
    path = Interpolator(limits, limits.q_max + 0.04)
    path.aim(np.full(7, 99.0))
    previous = path.setpoint.q
    for _ in range(400):
        q = path.step(0.005).q
        assert (q <= previous + 1e-9).all()
        previous = q
    np.testing.assert_allclose(previous, limits.q_max, atol=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_braking_turns_no_joint_round(seed: int):
    rng, limits = np.random.default_rng(seed), LIMITS["driver"]
    path = Interpolator(limits, (limits.q_min + limits.q_max) / 2)
    path.aim(rng.uniform(limits.q_min, limits.q_max))
    for _ in range(rng.integers(1, 200)):
        path.step(0.005)
    moving = path.setpoint
    path.brake()
    for _ in range(400):
        braking = path.step(0.005)
        assert (braking.dq * np.sign(moving.dq) > -1e-6).all()
    assert path.at_rest


def test_limits_that_make_no_sense_are_refused():
    vendor = LIMITS["vendor"]
    with pytest.raises(ConfigError, match="q_min < q_max"):
        MotionLimits(vendor.q_max, vendor.q_min, vendor.dq_max, vendor.ddq_max, vendor.jerk_max)
    with pytest.raises(ConfigError, match="finite"):
        MotionLimits(vendor.q_min, vendor.q_max, np.full(7, np.nan), vendor.ddq_max, vendor.jerk_max)
