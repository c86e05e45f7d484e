"""Poses, quaternions and pixels."""

import numpy as np
from armflow.robot.geometry import down_facing, look_at, pose, project, quat_from_rotation, rotation_from_quat
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

unit = st.floats(-1, 1, allow_subnormal=False)
quats = arrays(np.float64, 4, elements=unit).filter(lambda q: np.linalg.norm(q) > 0.1)
points = arrays(np.float64, 3, elements=unit)


@given(quats)
def test_a_quaternion_and_its_rotation_say_the_same(quat: np.ndarray):
    quat = quat / np.linalg.norm(quat)
    R = rotation_from_quat(tuple(quat))
    w, x, y, z = quat
    first_column = [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)]
    np.testing.assert_allclose(R[:, 0], first_column, atol=1e-12)
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)
    back = quat_from_rotation(R)
    assert back[0] >= 0
    assert min(np.abs(back - quat).max(), np.abs(back + quat).max()) < 1e-9


@given(points, points)
def test_a_camera_sees_what_it_looks_at_in_the_middle_and_upright(eye: np.ndarray, target: np.ndarray):
    sight = target - eye
    if np.hypot(sight[0], sight[1]) < 0.05:
        return  # straight up or down: no upright image exists
    X_BC, K = look_at(eye, target), np.array([[500.0, 0, 320], [0, 500.0, 240], [0, 0, 1]])
    np.testing.assert_allclose(np.linalg.det(X_BC[:3, :3]), 1, atol=1e-9)
    seen = project(np.array([target, target + (0, 0, 0.01)]), K, X_BC)
    np.testing.assert_allclose(seen[0], (320, 240), atol=1e-6)
    assert seen[1][1] < seen[0][1], "a higher point is higher in the image: smaller row"


def test_projection_by_hand():
    """1 m in front of the camera, 10 cm right, 5 cm down."""
    X_BC = pose((1.0, 2.0, 3.0), np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]))  # looks along the base's x
    K = np.array([[600.0, 0, 320], [0, 610.0, 240], [0, 0, 1]])
    np.testing.assert_allclose(project(np.array([[2.0, 1.9, 2.95]]), K, X_BC), [[380.0, 270.5]])


@given(st.floats(-3, 3))
def test_a_tool_that_points_down_does_so_at_every_yaw(yaw: float):
    R = down_facing(yaw)
    np.testing.assert_allclose(R @ (0, 0, 1), (0, 0, -1), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(R), 1, atol=1e-12)
    np.testing.assert_allclose(R @ (1, 0, 0), (np.cos(yaw), np.sin(yaw), 0), atol=1e-12)
