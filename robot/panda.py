"""Franka Emika Panda, also sold as Franka Robot: published limits (Franka Control Interface documentation).

Its links have the lengths and shapes of the FR3's. Their masses are not published; the twin takes the FR3's.
"""

from dataclasses import replace

import numpy as np

from . import fr3
from .types import ArmSpec

SPEC = ArmSpec(
    name="panda",
    joint_names=fr3.SPEC.joint_names,
    q_min=np.array([-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973]),
    q_max=np.array([2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973]),
    dq_max=np.array([2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61]),
    ddq_max=np.array([15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0]),
    tau_max=np.array([87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0]),
    gripper_width_m=fr3.SPEC.gripper_width_m,
    jerk_max=np.array([7500.0, 3750.0, 5000.0, 6250.0, 7500.0, 10000.0, 10000.0]),
)

DESCRIPTION = replace(fr3.DESCRIPTION, spec=SPEC)
