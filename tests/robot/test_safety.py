"""What the safety filter lets through, whatever it is asked."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from armflow.robot import fr3
from armflow.robot.errors import ConfigError, SafetyStop
from armflow.robot.safety import JointSafety, SafetyCfg
from armflow.robot.types import ArmCommand, ArmState, SafetyFlag
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

SPEC = fr3.SPEC
# Only range and speed bind: from full speed to full speed backwards in one period, and an arm that never follows.
CFG = SafetyCfg(
    speed_scale=0.6, acceleration_scale=6.5, start_tolerance_rad=0.5, engage_s=0.0, blocked_stop_s=np.inf,
    tracking_rad=np.inf,
)  # fmt: skip
LOW, HIGH = SPEC.q_min + CFG.joint_margin_rad, SPEC.q_max - CFG.joint_margin_rad
MIDDLE = (LOW + HIGH) / 2
DT = 0.1  # s
STEP = CFG.speed_scale * SPEC.dq_max * DT
ROUNDING = 1e-12  # rad
ANY_START = replace(CFG, start_tolerance_rad=np.inf)

joints = arrays(np.float64, 7, elements=st.floats(-10, 10))
wild = arrays(np.float64, 7, elements=st.floats(-1e30, 1e30))
inside = arrays(np.float64, 7, elements=st.floats(0, 1)).map(lambda x: LOW + x * (HIGH - LOW))
openings = st.floats(-5, 5)


def state(q: Any = MIDDLE) -> ArmState:
    return ArmState(0.0, np.array(q, dtype=np.float64), np.zeros(7), np.zeros(7), 1.0)


def ready(q: Any = MIDDLE, cfg: SafetyCfg = CFG) -> JointSafety:
    safety = JointSafety(SPEC, cfg)
    safety.reset(state(q))
    return safety


@given(inside, st.lists(st.tuples(st.one_of(joints, wild), openings), min_size=1, max_size=12))
def test_no_sequence_of_commands_leaves_the_range_or_exceeds_the_speed(
    start: np.ndarray, asked: list[tuple[np.ndarray, float]]
):
    safety, last = ready(start, ANY_START), start
    for q, gripper in asked:
        sent = safety(ArmCommand(q, gripper), state(), DT).command
        assert (sent.q >= LOW - ROUNDING).all() and (sent.q <= HIGH + ROUNDING).all()
        assert (np.abs(sent.q - last) <= STEP + ROUNDING).all()
        assert 0 <= sent.gripper <= 1
        last = sent.q


@given(inside, joints, openings)
def test_flags_say_exactly_what_was_changed(start: np.ndarray, q: np.ndarray, gripper: float):
    filtered = ready(start, ANY_START)(ArmCommand(q, gripper), state(), DT)
    in_range = np.clip(q, LOW, HIGH)
    assert bool(filtered.flags & SafetyFlag.JOINT_RANGE) == (not np.array_equal(in_range, q))
    assert bool(filtered.flags & SafetyFlag.JOINT_SPEED) == (not np.array_equal(filtered.command.q, in_range))
    assert bool(filtered.flags & SafetyFlag.GRIPPER_RANGE) == (filtered.command.gripper != gripper)


@given(inside, st.floats(-1, 1))
def test_what_is_harmless_passes_unchanged(start: np.ndarray, share: float):
    asked = np.clip(start + 0.99 * share * STEP, LOW, HIGH)
    filtered = ready(start)(ArmCommand(asked, 0.5), state(), DT)
    assert filtered.flags == SafetyFlag.NONE
    np.testing.assert_array_equal(filtered.command.q, asked)


def test_an_arm_outside_the_range_comes_back_at_the_allowed_speed():
    start = MIDDLE.copy()
    start[3] = HIGH[3] + 0.04  # between the margin and the end stop
    safety, q, dt = ready(start), start[3], 0.01
    for _ in range(12):
        sent = safety(ArmCommand(start, 1.0), state(), dt).command.q[3]
        assert q - CFG.speed_scale * SPEC.dq_max[3] * dt - ROUNDING <= sent <= q
        q = sent
    assert q == pytest.approx(HIGH[3], abs=1e-9)


def test_speed_is_measured_between_commands_so_a_lagging_arm_does_not_slow_them():
    safety, far = ready(), MIDDLE + 0.5
    sent = [safety(ArmCommand(far, 1.0), state(MIDDLE), DT).command.q for _ in range(10)]
    np.testing.assert_allclose(sent[-1], far)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
@pytest.mark.parametrize("place", [0, 5, 7])
def test_nonsense_is_refused_by_name(bad: float, place: int):
    vector = np.append(MIDDLE, 0.5)
    vector[place] = bad
    with pytest.raises(SafetyStop, match=f"not finite in {SPEC.action_names[place]};"):
        ready()(ArmCommand(vector[:7], float(vector[7])), state(), DT)


@pytest.mark.parametrize("shape", [(6,), (8,), (1, 7), ()])
def test_a_command_for_another_arm_is_refused(shape: tuple[int, ...]):
    with pytest.raises(SafetyStop, match=r"takes \(7,\)"):
        ready()(ArmCommand(np.zeros(shape), 0.5), state(), DT)


@given(st.integers(0, 6), st.floats(0, 2), st.sampled_from([-1, 1]))
def test_the_first_command_must_be_near_the_measured_pose(joint: int, distance: float, sign: int):
    asked = MIDDLE.copy()
    asked[joint] += sign * distance
    jump = abs(asked[joint] - MIDDLE[joint])
    if jump <= CFG.start_tolerance_rad:
        ready()(ArmCommand(asked, 1.0), state(), DT)
    else:
        with pytest.raises(SafetyStop, match=rf"on {SPEC.joint_names[joint]},.*start pose"):
            ready()(ArmCommand(asked, 1.0), state(), DT)


def test_only_the_first_command_after_a_reset_is_compared_with_the_pose():
    safety = ready()
    safety(ArmCommand(MIDDLE, 1.0), state(), DT)
    safety(ArmCommand(MIDDLE + 0.6, 1.0), state(), DT)
    safety.reset(state())
    with pytest.raises(SafetyStop, match="first command"):
        safety(ArmCommand(MIDDLE + 0.6, 1.0), state(), DT)


def test_a_pose_that_was_not_measured_is_refused():
    """Every comparison with NaN is false, so a NaN pose would switch the filter off."""
    q = MIDDLE.copy()
    q[2] = np.nan
    with pytest.raises(SafetyStop, match="joint3"):
        ready(q)
    with pytest.raises(SafetyStop, match="call reset"):
        JointSafety(SPEC)(ArmCommand(MIDDLE, 1.0), state(), DT)


@pytest.mark.parametrize("dt", [0.0, -0.1, np.nan, np.inf])
def test_a_period_that_is_none_is_refused(dt: float):
    with pytest.raises(SafetyStop, match="must be positive"):
        ready()(ArmCommand(MIDDLE, 1.0), state(), dt)


# --- where it leads


@given(st.floats(0.1, 1.0), st.floats(0.1, 2.0), st.sampled_from([10.0, 20.0, 50.0]), st.floats(-0.6, 0.6))
def test_a_target_that_stays_is_reached_exactly_and_not_run_past(speed: float, accel: float, hz: float, way: float):
    safety = ready(cfg=replace(CFG, speed_scale=speed, acceleration_scale=accel, start_tolerance_rad=1.0))
    target = MIDDLE + way * np.array([1.0, -0.5, 0.3, 0.7, -0.2, 0.1, 1.0])
    path = np.array([safety(ArmCommand(target, 1.0), state(), 1 / hz).command.q for _ in range(round(4 * hz))])
    left = (target - path) * np.sign(target - MIDDLE)
    assert (left >= -1e-9).all(), "nothing runs past it"
    np.testing.assert_array_equal(path[-1], target)


@given(st.floats(0.05, 0.95), st.sampled_from([10.0, 50.0]))
def test_a_target_that_moves_within_the_limits_is_followed_to_the_number(share: float, hz: float):
    """From rest, with the acceleration of a person's hand, there and back."""
    cfg = replace(CFG, speed_scale=0.5, acceleration_scale=0.5)
    safety, period = ready(cfg=cfg), 2.0
    t = np.arange(0, 2 * period, 1 / hz)[:, None]
    peak = (
        share * 0.5 * min(10.0 / (2 * np.pi / period) ** 2, 2.62 / (2 * np.pi / period))
    )  # of a swing's acceleration, speed
    asked = MIDDLE + peak * 0.5 * (1 - np.cos(2 * np.pi * t / period)) * np.ones(7)
    for q in asked:
        filtered = safety(ArmCommand(q, 1.0), state(), 1 / hz)
        assert filtered.flags == SafetyFlag.NONE
        np.testing.assert_array_equal(filtered.command.q, q)


# --- what latches


def test_after_a_stop_nothing_passes_until_an_operator_acknowledges_it():
    safety = ready()
    with pytest.raises(SafetyStop, match="not finite"):
        safety(ArmCommand(np.full(7, np.nan), 1.0), state(), DT)
    for _ in range(3):
        with pytest.raises(SafetyStop, match=r"acknowledge.*not finite in joint1\.pos"):
            safety(ArmCommand(MIDDLE, 1.0), state(), DT)
        with pytest.raises(SafetyStop, match=r"acknowledge.*not finite in joint1\.pos"):
            safety.reset(state())
    safety.acknowledge()
    safety.reset(state())
    assert safety(ArmCommand(MIDDLE, 1.0), state(), DT).flags == SafetyFlag.NONE


def test_an_acknowledged_stop_wants_the_measured_pose_before_it_goes_on():
    safety = ready()
    with pytest.raises(SafetyStop, match="period|positive"):
        safety(ArmCommand(MIDDLE, 1.0), state(), 0.0)
    safety.acknowledge()
    with pytest.raises(SafetyStop, match="call reset"):
        safety(ArmCommand(MIDDLE, 1.0), state(), DT)


# --- engaging


def test_speed_rises_from_a_tenth_of_its_limit_after_a_start_and_after_every_reset():
    cfg = replace(CFG, engage_s=1.0)
    safety = ready(cfg=cfg)
    for _ in range(2):
        q, steps = MIDDLE, []
        for k in range(13):
            q, last = safety(ArmCommand(MIDDLE + (0.4 if k == 0 else 9.0), 1.0), state(), DT).command.q, q
            steps.append((q - last)[1])
        share = np.minimum(1.0, 0.1 + 0.9 * DT * np.arange(13))
        room = HIGH[1] - MIDDLE[1] - np.cumsum(share * STEP[1])
        moving = room > 0
        np.testing.assert_allclose(np.array(steps)[moving], (share * STEP[1])[moving])
        safety.reset(state())


# --- age


def full_speed(safety: JointSafety, ticks: int) -> np.ndarray:
    """Lead joint 1 upwards as fast as it goes; returns where it is then."""
    q = MIDDLE
    for _ in range(ticks):
        q = safety(ArmCommand(MIDDLE + np.eye(7)[0] * min(2.0, q[0] - MIDDLE[0] + 0.3), 1.0), state(), DT).command.q
    return q


@pytest.mark.parametrize("age_s", [0.21, 5.0, np.inf, np.nan, -0.01])
def test_an_old_decision_is_not_followed_and_the_arm_brakes_on_its_way(age_s: float):
    cfg = replace(CFG, acceleration_scale=0.5)
    safety = ready(cfg=cfg)
    q = full_speed(safety, 6)
    change, last_step, positions = 0.5 * 10.0 * DT**2, None, [q[0]]
    for _ in range(8):
        filtered = safety(ArmCommand(MIDDLE - 1.0, 0.0), state(), DT, age_s)
        assert filtered.flags == SafetyFlag.STALE
        assert filtered.command.gripper == 1.0, "the gripper stays, too"
        positions.append(filtered.command.q[0])
    steps = np.diff(positions)
    last_step = steps[0] + change
    np.testing.assert_allclose(steps, np.maximum(0.0, last_step - change * np.arange(1, 9)), atol=1e-9)
    assert steps[0] > 0 and steps[-1] == 0


def test_decisions_that_stay_old_stop_it():
    safety = ready(cfg=replace(CFG, blocked_stop_s=1.0))
    for _ in range(10):
        safety(ArmCommand(MIDDLE, 1.0), state(), DT, 0.5)
    safety(ArmCommand(MIDDLE, 1.0), state(), DT)  # a fresh one in between: the count starts again
    for _ in range(10):
        safety(ArmCommand(MIDDLE, 1.0), state(), DT, 0.5)
    with pytest.raises(SafetyStop, match=r"followed for 1\.0 s: decisions are 0\.50 s old, allowed is 0\.2 s"):
        safety(ArmCommand(MIDDLE, 1.0), state(), DT, 0.5)


def test_a_first_command_that_is_too_old_does_not_count_as_the_start():
    safety = ready()
    safety(ArmCommand(MIDDLE + 0.6, 1.0), state(), DT, 0.5)
    with pytest.raises(SafetyStop, match="first command is 0.60 rad"):
        safety(ArmCommand(MIDDLE + 0.6, 1.0), state(), DT)


# --- tracking


def test_an_arm_that_does_not_follow_for_long_enough_stops_it_by_joint():
    safety = ready(cfg=replace(CFG, tracking_rad=0.15, tracking_s=0.1))
    away = MIDDLE.copy()
    away[3] -= 0.2
    for _ in range(3):  # one bad reading is none
        safety(ArmCommand(MIDDLE, 1.0), state(away), DT)
        safety(ArmCommand(MIDDLE, 1.0), state(), DT)
    safety(ArmCommand(MIDDLE, 1.0), state(away), DT)
    with pytest.raises(SafetyStop, match=r"joint4 is 0\.20 rad from its last command"):
        safety(ArmCommand(MIDDLE, 1.0), state(away), DT)


def test_a_pose_that_is_no_longer_measured_stops_it():
    safety, lost = ready(), MIDDLE.copy()
    safety(ArmCommand(MIDDLE, 1.0), state(), DT)
    lost[6] = np.nan
    with pytest.raises(SafetyStop, match="no finite position of joint7"):
        safety(ArmCommand(MIDDLE, 1.0), state(lost), DT)


def test_the_period_may_not_change_on_the_way():
    """How far the arm needs to brake depends on it."""
    safety = ready()
    safety(ArmCommand(MIDDLE, 1.0), state(), DT)
    with pytest.raises(SafetyStop, match=r"was 0\.1 s and is now 0\.05 s"):
        safety(ArmCommand(MIDDLE, 1.0), state(), DT / 2)


# --- settings


@pytest.mark.parametrize(
    ("key", "value"),
    [("joint_margin_rad", -0.1), ("joint_margin_rad", 3.0), ("speed_scale", 0.0), ("speed_scale", 1.5),
     ("speed_scale", np.nan), ("start_tolerance_rad", 0.0), ("start_tolerance_rad", np.nan),
     ("acceleration_scale", np.inf), ("jerk_scale", 0.0), ("engage_s", -1.0), ("engage_s", np.inf),
     ("tcp_speed_m_s", np.nan), ("tcp_min", (0.0, 0.0, 2.0)), ("tcp_max", (1.0, np.nan, 1.0)), ("tcp_max", (1.0, 1.0)),
     ("clearance_m", np.inf), ("table_z_m", np.nan), ("table_clearance_m", np.nan), ("max_command_age_s", 0.0),
     ("blocked_stop_s", -1.0), ("tracking_rad", np.nan), ("tracking_s", np.nan)],
)  # fmt: skip
def test_limits_that_are_none_are_refused(key: str, value: Any):
    with pytest.raises(ConfigError, match=key):
        SafetyCfg(**{key: value})
