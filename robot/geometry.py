"""Poses as 4x4 matrices `X_BC` (pose of C in B) and quaternions `wxyz`."""

import numpy as np
from scipy.spatial.transform import Rotation

from .types import Floats


def pose(position: Floats | tuple[float, ...], rotation: Floats) -> Floats:
    """(3,), (3, 3) -> (4, 4)."""
    X = np.eye(4)
    X[:3, :3], X[:3, 3] = rotation, position
    return X


def rotation_from_quat(quat_wxyz: tuple[float, ...]) -> Floats:
    """(4,) wxyz -> (3, 3)."""
    return Rotation.from_quat(np.asarray(quat_wxyz), scalar_first=True).as_matrix()


def quat_from_rotation(rotation: Floats) -> Floats:
    """(3, 3) -> (4,) wxyz with w >= 0."""
    return Rotation.from_matrix(rotation).as_quat(scalar_first=True, canonical=True)


def look_at(eye: Floats | tuple[float, ...], target: Floats | tuple[float, ...]) -> Floats:
    """(4, 4) pose of an optical frame (z forward, x right, y down) at `eye` looking at `target`, image upright."""
    eye, target = np.asarray(eye, dtype=np.float64), np.asarray(target, dtype=np.float64)
    forward = (target - eye) / float(np.linalg.norm(target - eye))
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= float(np.linalg.norm(right))
    return pose(eye, np.column_stack([right, np.cross(forward, right), forward]).astype(np.float64))


def project(points: Floats, K: Floats, X_BC: Floats) -> Floats:
    """Points (n, 3) in base -> pixels (n, 2); no distortion."""
    in_camera = (points - X_BC[:3, 3]) @ X_BC[:3, :3]
    return (in_camera @ K.T)[:, :2] / in_camera[:, 2:]


def down_facing(yaw: float) -> Floats:
    """(3, 3) rotation of a tool that points down; at yaw 0 the fingers open along the base's y axis."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, s, 0.0], [s, -c, 0.0], [0.0, 0.0, -1.0]])
