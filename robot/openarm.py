"""OpenArm 1.0, one arm: published limits (Enactic, `openarm_description` v10; joint ranges of LeRobot 0.6.1's follower).

Zero is the arm hanging straight down with the gripper closed, as set in the motors by LeRobot's calibration. OpenArm 2.0
has another zero and other ranges.
"""

import numpy as np

from .types import ArmSpec

# LeRobot clips to these, which lie inside the mechanical range; left and right mirror each other in joint 2.
_RIGHT_DEG = ((-75, 75), (-9, 90), (-85, 85), (0, 135), (-85, 85), (-40, 40), (-80, 80))
_LEFT_DEG = ((-75, 75), (-90, 9), (-85, 85), (0, 135), (-85, 85), (-40, 40), (-80, 80))

# The motors turn at up to 16.8, 5.4 and 20.9 rad/s (shoulder, elbow, wrist) without a load: no speed for an arm beside
# people. 150 degrees/s is what the FR3 allows its large joints.
_SPEED = np.full(7, 2.62)  # rad/s


def _spec(side: str, range_deg: tuple[tuple[int, int], ...]) -> ArmSpec:
    return ArmSpec(
        name=f"openarm_{side}",
        joint_names=tuple(f"joint{i}" for i in range(1, 8)),
        q_min=np.radians([low for low, _ in range_deg]),
        q_max=np.radians([high for _, high in range_deg]),
        dq_max=_SPEED,
        ddq_max=np.full(7, 10.0),  # rad/s^2; nothing is published: the FR3's
        tau_max=np.array([40.0, 40.0, 27.0, 27.0, 7.0, 7.0, 7.0]),
        gripper_width_m=0.086,
    )


RIGHT, LEFT = _spec("right", _RIGHT_DEG), _spec("left", _LEFT_DEG)
SPECS = {spec.name: spec for spec in (RIGHT, LEFT)}
