"""Inverse kinematics: what it reaches, and what it never does on the way."""

import numpy as np
import pytest
from armflow.robot.geometry import down_facing, pose
from armflow.robot.kinematics import LIMIT_MARGIN_RAD, MAX_STEP_RAD, Kinematics
from armflow.robot.rig import ARMS, DEFAULT_RIG, ArmCfg, load_rig
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

WORKSPACE = ((0.34, -0.25, 0.02), (0.62, 0.25, 0.30))  # m, tool positions of the tasks
# Of the tool, pointing down, from the axis of the base, at every height of the workspace.
REACH_M = {"fr3": 0.75, "xarm7": 0.61}
ROUNDING = 1e-9

shares = arrays(np.float64, 7, elements=st.floats(0, 1))
positions = arrays(np.float64, 3, elements=st.floats(0, 1)).map(
    lambda x: np.array(WORKSPACE[0]) + x * np.ptp(WORKSPACE, 0)
)
yaws = st.floats(-0.7, 0.7)


@pytest.fixture(scope="module", params=["fr3_table", "xarm7_table"])
def arm(request: pytest.FixtureRequest) -> ArmCfg:
    return load_rig(DEFAULT_RIG.with_name(f"{request.param}.toml")).arm


@pytest.fixture(scope="module")
def home(arm: ArmCfg) -> np.ndarray:
    return np.array(arm.home_q)


@pytest.fixture(scope="module")
def kinematics(arm: ArmCfg) -> Kinematics:
    return Kinematics(arm)


def tool_error(kinematics: Kinematics, q: np.ndarray, X_BE: np.ndarray) -> tuple[float, float]:
    """Distance (m) and angle (rad) from the wanted tool pose."""
    X = kinematics.forward(q)
    turn = Rotation.from_matrix(X_BE[:3, :3] @ X[:3, :3].T).magnitude()
    return float(np.linalg.norm(X[:3, 3] - X_BE[:3, 3])), float(turn)


@settings(max_examples=60)
@given(positions, yaws)
def test_every_tool_pose_over_the_table_is_reached_from_home(
    kinematics: Kinematics, arm: ArmCfg, home: np.ndarray, position: np.ndarray, yaw: float
):
    assume(np.hypot(*position[:2]) <= REACH_M[arm.model])
    X_BE = pose(position, down_facing(yaw))
    distance, turn = tool_error(kinematics, kinematics.inverse(X_BE, home, iterations=40), X_BE)
    assert distance < 1e-4 and turn < 1e-3


@settings(max_examples=60)
@given(positions, yaws, arrays(np.float64, 3, elements=st.floats(-0.035, 0.035)), st.floats(-0.05, 0.05))
def test_a_move_of_one_control_period_is_exact(
    kinematics: Kinematics,
    arm: ArmCfg,
    home: np.ndarray,
    position: np.ndarray,
    yaw: float,
    move: np.ndarray,
    turn_by: float,
):
    """The fastest move of 0.1 s: 6 cm. The joints move only a little, so the elbow stays where it was."""
    goal = np.clip(position + move, *WORKSPACE)
    assume(max(np.hypot(*position[:2]), np.hypot(*goal[:2])) <= REACH_M[arm.model])
    start = kinematics.inverse(pose(position, down_facing(yaw)), home, iterations=40)
    X_BE = pose(goal, down_facing(yaw + turn_by))
    q = kinematics.inverse(X_BE, start)
    distance, turn = tool_error(kinematics, q, X_BE)
    assert distance < 2e-4 and turn < 2e-3
    assert np.abs(q - start).max() < 0.5


@settings(max_examples=60)
@given(positions, yaws)
def test_where_the_tool_already_is_nothing_moves(
    kinematics: Kinematics, home: np.ndarray, position: np.ndarray, yaw: float
):
    q = kinematics.inverse(pose(position, down_facing(yaw)), home, iterations=40)
    np.testing.assert_allclose(kinematics.inverse(kinematics.forward(q), q), q, atol=1e-9)


@settings(max_examples=100)
@given(shares, arrays(np.float64, 3, elements=st.floats(-2, 2)), st.floats(-3, 3), st.integers(1, 8))
def test_no_target_however_far_leaves_the_limits_or_jumps(
    kinematics: Kinematics, arm: ArmCfg, share: np.ndarray, position: np.ndarray, yaw: float, iterations: int
):
    spec = ARMS[arm.model]
    low, high = spec.q_min + LIMIT_MARGIN_RAD, spec.q_max - LIMIT_MARGIN_RAD
    q = low + share * (high - low)
    found = kinematics.inverse(pose(position, down_facing(yaw)), q, iterations=iterations)
    assert (found >= low - ROUNDING).all() and (found <= high + ROUNDING).all()
    assert np.abs(found - q).max() <= MAX_STEP_RAD * iterations + ROUNDING


def test_a_far_target_is_approached_step_by_step(kinematics: Kinematics, home: np.ndarray):
    X_BE, q = pose((0.5, -0.25, 0.1), down_facing(0.5)), home
    errors = []
    for _ in range(12):
        q = kinematics.inverse(X_BE, q, iterations=1)
        errors.append(tool_error(kinematics, q, X_BE)[0])
    assert (np.diff(errors) <= 1e-6).all()
    assert errors[-1] < 1e-4


def test_out_of_reach_the_arm_stretches_towards_it(kinematics: Kinematics, home: np.ndarray):
    X_BE, q = pose((1.5, 0.0, 0.3), down_facing(0.0)), home
    for _ in range(20):
        q = kinematics.inverse(X_BE, q)
    position = kinematics.forward(q)[:3, 3]
    assert 0.65 < position[0] < 0.95
    assert abs(position[1]) < 0.05


def test_asking_changes_nothing_that_was_given(kinematics: Kinematics, home: np.ndarray):
    q, X_BE = home.copy(), pose((0.5, 0.1, 0.2), down_facing(0.1))
    X_before = X_BE.copy()
    first = kinematics.inverse(X_BE, q)
    np.testing.assert_array_equal(q, home)
    np.testing.assert_array_equal(X_BE, X_before)
    kinematics.forward(first)
    np.testing.assert_array_equal(kinematics.inverse(X_BE, q), first, "the answer depends on the question alone")
