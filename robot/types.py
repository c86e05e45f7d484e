"""The values that cross every boundary: what an arm and a camera are, measure and are told.

Units are SI. Joint vectors are in the order of `ArmSpec.joint_names`. `X_BC` is the pose of C in B.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class ControlMode(IntEnum):
    """Who chose the action of a frame (dataset column `control_mode`)."""

    HUMAN = 0
    POLICY = 1
    INTERVENTION = 2
    PAUSE = 3  # nobody: the dead-man of a hold-to-run session is not held, the arm stays


class SafetyFlag(IntFlag):
    """What the safety filter changed in a command (dataset column `safety_flags`)."""

    NONE = 0
    JOINT_RANGE = 1
    JOINT_SPEED = 2
    GRIPPER_RANGE = 4
    JOINT_ACCELERATION = 8
    TCP_SPEED = 16
    WORKSPACE = 32
    COLLISION = 64
    STALE = 128  # decided too long ago: the arm brakes instead


@dataclass(frozen=True, eq=False)
class ArmSpec:
    """Names and limits of an arm; arrays have one entry per joint."""

    name: str
    joint_names: tuple[str, ...]
    q_min: Floats  # rad
    q_max: Floats  # rad
    dq_max: Floats  # rad/s
    ddq_max: Floats  # rad/s^2
    tau_max: Floats  # N m
    gripper_width_m: float  # opening at gripper = 1
    jerk_max: Floats | None = None  # rad/s^3; None: the vendor names none

    @property
    def dof(self) -> int:
        return len(self.joint_names)

    @property
    def action_names(self) -> tuple[str, ...]:
        """Column names of states and actions: `joint1.pos` ... `gripper.pos`."""
        return (*(f"{name}.pos" for name in self.joint_names), "gripper.pos")


@dataclass(frozen=True, eq=False)
class ArmState:
    """One measurement of the arm."""

    t: float  # capture time, s, monotonic clock
    q: Floats  # joint positions, rad
    dq: Floats  # joint velocities, rad/s
    effort: Floats  # joint torques, N m
    gripper: float  # opening, 0 closed .. 1 open

    @property
    def vector(self) -> NDArray[np.float32]:
        """`observation.state`: joint positions then gripper opening, (dof + 1,)."""
        return np.append(self.q, self.gripper).astype(np.float32)


@dataclass(frozen=True, eq=False)
class ArmCommand:
    """One absolute target for the arm."""

    q: Floats  # joint targets, rad
    gripper: float  # opening, 0 closed .. 1 open

    @property
    def vector(self) -> NDArray[np.float32]:
        """`action`: joint targets then gripper opening, (dof + 1,)."""
        return np.append(self.q, self.gripper).astype(np.float32)

    @staticmethod
    def from_vector(vector: NDArray[np.floating]) -> "ArmCommand":
        """Inverse of `vector`: the last entry is the gripper opening."""
        return ArmCommand(q=np.asarray(vector[:-1], dtype=np.float64), gripper=float(vector[-1]))


@dataclass(frozen=True, eq=False)
class CameraSpec:
    """Geometry of an RGB-D camera; depth is aligned to colour."""

    name: str
    width: int
    height: int
    fps: float
    K: Floats  # (3, 3) intrinsics, px
    distortion: Floats  # (5,) Brown-Conrady k1 k2 p1 p2 k3
    depth_scale_m: float  # metres per unit of the device's raw depth
    serial: str
    X_BC: Floats  # (4, 4) camera pose in the arm's base frame, optical convention (z forward, y down)


@dataclass(frozen=True, eq=False)
class RgbdFrame:
    """Colour and aligned depth of one instant."""

    t: float  # capture time, s, monotonic clock
    frame_number: int  # counted by the device; a gap is a dropped frame
    rgb: NDArray[np.uint8]  # (h, w, 3)
    depth_mm: NDArray[np.uint16]  # (h, w), 0 = no return


@dataclass(frozen=True, eq=False)
class Observation:
    """What the control loop saw at one tick. `frames` is empty when nobody asked for images."""

    t: float  # s, monotonic clock
    arm: ArmState
    frames: Mapping[str, RgbdFrame]
