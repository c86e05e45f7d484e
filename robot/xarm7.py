"""UFACTORY xArm7: published limits (UFACTORY user manual; the joint ranges that its SDK enforces).

Arms with serial numbers from XI1305 on have narrower ranges of joints 2 and 4 than those before; these fit every xArm7.
"""

import numpy as np

from .types import ArmSpec

_TURN = 2 * np.pi

SPEC = ArmSpec(
    name="xarm7",
    joint_names=tuple(f"joint{i}" for i in range(1, 8)),
    q_min=np.array([-_TURN, -2.042035, -_TURN, -0.10472, -_TURN, -1.692969, -_TURN]),
    q_max=np.array([_TURN, 2.024581, _TURN, 3.92699, _TURN, np.pi, _TURN]),
    dq_max=np.full(7, np.pi),  # 180 deg/s
    ddq_max=np.full(7, 20.0),  # 1145 deg/s^2
    tau_max=np.array([50.0, 50.0, 30.0, 30.0, 30.0, 20.0, 20.0]),
    gripper_width_m=0.084,
)

JERK_MAX = np.full(7, 500.0)  # rad/s^3; ours, none is published for servo mode: full acceleration takes 40 ms
