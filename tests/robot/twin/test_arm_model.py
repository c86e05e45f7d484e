"""The twin's arm is the FR3 of its datasheet: kinematics, masses, limits, and joints that hold against gravity."""

import mujoco
import numpy as np
import pytest
from armflow.robot import fr3
from armflow.robot.clock import SimClock
from armflow.robot.kinematics import Kinematics
from armflow.robot.models import arm_model
from armflow.robot.rig import Rig, load_rig
from armflow.robot.twin.arm_model import FINGERS
from armflow.robot.twin.scene import build_cell
from armflow.robot.twin.sim import Twin

# Franka Research 3, published: DH parameters after Craig (a and alpha of the joint before, d and theta of the joint).
#        a [m]    d [m]   alpha [rad]
DH = (
    (0.0, 0.333, 0.0),
    (0.0, 0.0, -np.pi / 2),
    (0.0, 0.316, np.pi / 2),
    (0.0825, 0.0, np.pi / 2),
    (-0.0825, 0.384, -np.pi / 2),
    (0.0, 0.0, np.pi / 2),
    (0.088, 0.0, np.pi / 2),
)
FLANGE_M, HAND_TURN_RAD, FINGERTIPS_M = 0.107, -np.pi / 4, 0.1034
LIMITS_RAD = (
    (-2.7437, 2.7437), (-1.7837, 1.7837), (-2.9007, 2.9007), (-3.0421, -0.1518), (-2.8065, 2.8065), (0.5445, 4.5169),
    (-3.0159, 3.0159),
)  # fmt: skip
SPEEDS_RAD_S = (2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26)
TORQUES_NM = (87, 87, 87, 87, 12, 12, 12)
MOVING_LINKS_KG = 2.92747 + 2.93554 + 2.2449 + 2.6156 + 2.32712 + 1.81704 + 0.627143
HAND_KG = 0.73 + 2 * 0.015


def craig(a: float, d: float, alpha: float, theta: float) -> np.ndarray:
    """RotX(alpha) TransX(a) RotZ(theta) TransZ(d), written out."""
    ca, sa, ct, st = np.cos(alpha), np.sin(alpha), np.cos(theta), np.sin(theta)
    return np.array(
        [
            [ct, -st, 0, a],
            [st * ca, ct * ca, -sa, -d * sa],
            [st * sa, ct * sa, ca, d * ca],
            [0, 0, 0, 1],
        ]
    )


def published_pose(q: np.ndarray) -> np.ndarray:
    """(4, 4) of the point between the fingertips."""
    X = np.eye(4)
    for (a, d, alpha), theta in zip(DH, q, strict=True):
        X = X @ craig(a, d, alpha, theta)
    return X @ craig(0, FLANGE_M, 0, 0) @ craig(0, FINGERTIPS_M, 0, HAND_TURN_RAD)


def random_joints(n: int, margin: float = 0.0) -> np.ndarray:
    low, high = np.array(LIMITS_RAD).T
    return np.random.default_rng(0).uniform(low + margin, high - margin, (n, 7))


@pytest.fixture(scope="module")
def arm() -> mujoco.MjModel:
    return arm_model(load_rig().arm).spec.compile()


@pytest.fixture(scope="module")
def cell(rig: Rig) -> mujoco.MjModel:
    return build_cell(rig, [])


def test_forward_kinematics_is_the_published_product_of_joint_transforms():
    kinematics = Kinematics(load_rig().arm)
    for q in random_joints(200):
        np.testing.assert_allclose(kinematics.forward(q), published_pose(q), atol=1e-6)


def test_the_cell_has_the_same_kinematics(cell: mujoco.MjModel):
    data = mujoco.MjData(cell)
    for q in random_joints(20):
        data.qpos[:7] = q
        mujoco.mj_kinematics(cell, data)
        np.testing.assert_allclose(data.site("tcp").xpos, published_pose(q)[:3, 3], atol=1e-6)


def test_a_stretched_arm_points_straight_up():
    """By hand: link lengths add up; the 88 mm of the wrist stand off to the side."""
    q = np.array([0, 0, 0, 0, 0, 0, 0.0])
    X = Kinematics(load_rig().arm).forward(q)
    np.testing.assert_allclose(X[:3, 3], (0.088, 0, 0.333 + 0.316 + 0.384 - 0.107 - 0.1034), atol=1e-6)
    np.testing.assert_allclose(X[:3, 2], (0, 0, -1), atol=1e-6)


def test_masses_are_the_published_ones(arm: mujoco.MjModel, cell: mujoco.MjModel):
    assert arm.body_mass.sum() == pytest.approx(MOVING_LINKS_KG + HAND_KG)
    assert cell.body_mass.sum() == pytest.approx(MOVING_LINKS_KG + HAND_KG)
    assert (arm.body_gravcomp[arm.body_mass > 0] == 1).all(), "the real arm compensates its own weight"


@pytest.mark.parametrize("which", ["arm", "cell"])
def test_joint_limits_in_the_compiled_model_are_the_published_radians(which: str, request: pytest.FixtureRequest):
    model: mujoco.MjModel = request.getfixturevalue(which)
    for name, limits in zip(fr3.SPEC.joint_names, LIMITS_RAD, strict=True):
        joint = model.joint(name)
        assert model.jnt_limited[joint.id]
        np.testing.assert_allclose(joint.range, limits, atol=1e-9)
        np.testing.assert_allclose(joint.axis, (0, 0, 1))


def test_the_spec_states_the_published_limits():
    np.testing.assert_allclose(np.column_stack([fr3.SPEC.q_min, fr3.SPEC.q_max]), LIMITS_RAD)
    np.testing.assert_allclose(fr3.SPEC.dq_max, SPEEDS_RAD_S)
    np.testing.assert_allclose(fr3.SPEC.tau_max, TORQUES_NM)


def test_motors_are_no_stronger_than_published(cell: mujoco.MjModel):
    for name, torque in zip(fr3.SPEC.joint_names, TORQUES_NM, strict=True):
        actuator = cell.actuator(name)
        assert cell.actuator_forcelimited[actuator.id]
        np.testing.assert_allclose(actuator.forcerange, (-torque, torque))
        assert cell.joint(name).id == actuator.trnid[0]
    for finger in FINGERS:
        np.testing.assert_allclose(cell.actuator(finger).forcerange, (-30, 30))
        np.testing.assert_allclose(cell.joint(finger).range, (0, 0.04))


def test_torque_never_exceeds_the_limit_even_when_the_target_is_far(rig: Rig, cell: mujoco.MjModel):
    data = mujoco.MjData(cell)
    data.qpos[:7] = rig.arm.home_q
    data.ctrl[:7] = fr3.SPEC.q_max
    for _ in range(200):
        mujoco.mj_step(cell, data)
        assert (np.abs(data.actuator_force[:7]) <= np.array(TORQUES_NM) + 1e-9).all()


def test_a_pose_is_held_without_drift(rig: Rig, cell: mujoco.MjModel):
    """Two seconds at rest: gravity is compensated, so a servo without integral action has nothing to sag under."""
    clock = SimClock()
    twin = Twin(rig, cell, clock)
    for q in ((0.0, -0.3, 0.0, -2.6, 0.0, 2.3, 0.8), (0.8, 0.4, -0.5, -1.6, 0.6, 2.0, -0.5)):
        twin.place({}, np.array(q))
        clock.sleep_until(clock.now() + 2.0)
        twin.sync()
        measured, speed, torque, opening = twin.joint_state()
        np.testing.assert_allclose(measured, q, atol=1e-4)
        np.testing.assert_allclose(speed, 0, atol=1e-3)
        np.testing.assert_allclose(torque, 0, atol=0.1)
        assert opening == pytest.approx(1.0, abs=0.02)


def test_no_part_of_the_arm_moves_by_more_than_its_servo(cell: mujoco.MjModel):
    """Nine joints, nine actuators, no constraint that ties anything to anything: nothing can be welded."""
    assert cell.nv == cell.nu == 9
    assert cell.neq == 0
    assert (cell.jnt_type[:7] == mujoco.mjtJoint.mjJNT_HINGE).all()
