"""What the safety filter lets through, whatever it is asked."""

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

SPEC, CFG = fr3.SPEC, SafetyCfg()
LOW, HIGH = SPEC.q_min + CFG.joint_margin_rad, SPEC.q_max - CFG.joint_margin_rad
MIDDLE = (LOW + HIGH) / 2
DT = 0.1  # s
STEP = CFG.speed_scale * SPEC.dq_max * DT
ROUNDING = 1e-12  # rad
ANY_START = SafetyCfg(start_tolerance_rad=np.inf)

joints = arrays(np.float64, 7, elements=st.floats(-10, 10))
wild = arrays(np.float64, 7, elements=st.floats(-1e30, 1e30))
inside = arrays(np.float64, 7, elements=st.floats(0, 1)).map(lambda x: LOW + x * (HIGH - LOW))
openings = st.floats(-5, 5)


def state(q: Any = MIDDLE) -> ArmState:
    return ArmState(0.0, np.array(q, dtype=np.float64), np.zeros(7), np.zeros(7), 1.0)


def ready(q: Any = MIDDLE, cfg: SafetyCfg | None = None) -> JointSafety:
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
    safety, q, dt = ready(start), start[3], 0.001
    for _ in range(60):
        sent = safety(ArmCommand(start, 1.0), state(), dt).command.q[3]
        assert q - CFG.speed_scale * SPEC.dq_max[3] * dt - ROUNDING <= sent <= q
        q = sent
    assert q == pytest.approx(HIGH[3])


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


def test_a_refused_command_leaves_the_filter_as_it_was():
    safety = ready()
    safety(ArmCommand(MIDDLE, 1.0), state(), DT)
    with pytest.raises(SafetyStop):
        safety(ArmCommand(np.full(7, np.nan), 1.0), state(), DT)
    np.testing.assert_allclose(safety(ArmCommand(MIDDLE + 1, 1.0), state(), DT).command.q, MIDDLE + STEP)


@pytest.mark.parametrize(
    ("key", "value"),
    [("joint_margin_rad", -0.1), ("joint_margin_rad", 3.0), ("speed_scale", 0.0), ("speed_scale", 1.5),
     ("speed_scale", np.nan), ("start_tolerance_rad", 0.0), ("start_tolerance_rad", np.nan)],
)  # fmt: skip
def test_limits_that_switch_the_filter_off_are_refused(key: str, value: float):
    with pytest.raises(ConfigError, match=key):
        SafetyCfg(**{key: value})
