"""Franka Research 3: published kinematics, masses and limits (Franka Robotics, FR3 datasheet and `franka_description`)."""

import numpy as np

from .arm_description import IDENTITY, X_MINUS_90, X_PLUS_90, ArmDescription, Hand, Link
from .types import ArmSpec, Floats

JERK_MAX = np.full(7, 5000.0)  # rad/s^3

SPEC = ArmSpec(
    name="fr3",
    joint_names=tuple(f"joint{i}" for i in range(1, 8)),
    q_min=np.array([-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159]),
    q_max=np.array([2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159]),
    dq_max=np.array([2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26]),
    ddq_max=np.full(7, 10.0),
    tau_max=np.array([87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0]),
    gripper_width_m=0.08,
    jerk_max=JERK_MAX,
)

# The closer a joint is to an end of its range, the slower it may approach it: v = sqrt(2 a d) - c, d the distance in rad.
END_DECELERATION = np.array([6.0, 2.585, 3.5, 4.0, 17.0, 5.5, 17.0])  # a, rad/s^2
END_OFFSET = np.array([0.3, 0.2, 0.2, 0.3, 0.35, 0.35, 0.35])  # c, rad/s


def velocity_limits(q: Floats) -> tuple[Floats, Floats]:
    """Lowest and highest joint velocity that the controller allows at `q` (dof,) rad, in rad/s."""
    towards_max = np.sqrt(2 * END_DECELERATION * np.maximum(SPEC.q_max - q, 0)) - END_OFFSET
    towards_min = np.sqrt(2 * END_DECELERATION * np.maximum(q - SPEC.q_min, 0)) - END_OFFSET
    return -np.clip(towards_min, 0, SPEC.dq_max), np.clip(towards_max, 0, SPEC.dq_max)


_BASE = (((-0.06, 0.0, 0.06), (0.0, 0.0, 0.06), 0.07), ((0.0, 0.0, 0.06), (0.0, 0.0, 0.14), 0.065))

_LINKS = (
    Link((0, 0, 0.333), IDENTITY, 2.92747, (4.128e-07, -0.0181251, -0.0386036),
         (0.998098, -0.0605364, 0.00380499, 0.0110109), (0.0239286, 0.0227246, 0.00610634),
         (((0, 0, -0.16), (0, 0, -0.01), 0.06), ((0, -0.06, 0), (0, 0.04, 0), 0.062)), 0.195),
    Link((0, 0, 0), X_MINUS_90, 2.93554, (0.00318289, -0.0743222, 0.00881461),
         (0.502599, 0.584437, -0.465998, 0.434366), (0.0629567, 0.0411924, 0.0246371),
         (((0, -0.02, 0.03), (0, -0.19, 0.0), 0.058),), 0.195),
    Link((0, -0.316, 0), X_PLUS_90, 2.2449, (0.0407016, -0.00482006, -0.0289731),
         (0.921025, -0.244161, 0.155272, 0.260745), (0.0267409, 0.0189869, 0.0171587),
         (((0, 0, -0.11), (0.02, 0, -0.05), 0.058), ((0.0825, -0.05, 0), (0.0825, 0.03, 0), 0.052)), 0.195),
    Link((0.0825, 0, 0), X_PLUS_90, 2.6156, (-0.0459101, 0.0630493, -0.00851879),
         (0.438018, 0.803311, 0.00937812, 0.403414), (0.05139, 0.0372717, 0.0160047),
         (((0, 0.0, 0.0), (-0.0825, 0.09, 0), 0.05),), 0.195),
    Link((-0.0825, 0.384, 0), X_MINUS_90, 2.32712, (-0.00160396, 0.0292536, -0.0972966),
         (0.919031, 0.125604, 0.0751531, -0.366003), (0.0579335, 0.0449144, 0.0130634),
         (((0, 0.0, -0.26), (0, 0.075, -0.16), 0.046), ((0, 0.075, -0.16), (0, 0.02, 0), 0.044)), 0.074),
    Link((0, 0, 0), X_PLUS_90, 1.81704, (0.0597131, -0.0410295, -0.0101693),
         (0.621301, 0.552665, 0.510011, 0.220081), (0.0175039, 0.0161123, 0.00193529),
         (((0, 0, -0.03), (0, 0, 0.03), 0.05), ((0.03, -0.01, 0), (0.088, 0.0, 0), 0.046)), 0.074),
    Link((0.088, 0, 0), X_PLUS_90, 0.627143, (0.00452258, 0.00862619, -0.0161633),
         (0.727579, 0.0978688, -0.24906, 0.63168), (0.000223836, 0.000223642, 5.64132e-07),
         (((0, 0, 0.03), (0, 0, 0.08), 0.042),), 0.074),
)  # fmt: skip


_HAND = Hand(
    pos=(0.0, 0.0, 0.107),
    quat=(0.9238795, 0.0, 0.0, -0.3826834),
    mass=0.73,
    com=(-0.01, 0.0, 0.03),
    inertia=(0.001, 0.0025, 0.0017),
    boxes=(((0.0, 0.0, 0.033), (0.025, 0.1, 0.033)),),
    tcp_z=0.1034,
    finger_z=0.0584,
    finger_mass=0.015,
    finger_inertia=(2.375e-6, 2.375e-6, 7.5e-7),
    finger=((0.0, 0.014, 0.018), (0.009, 0.009, 0.018)),
    pad=((0.0, 0.005, 0.0405), (0.0095, 0.005, 0.0125)),
    travel=0.04,
    speed=0.1,
    force=30.0,  # continuous rating is 70 N
)

# Joint impedance as the arm's tracker runs it; wrist gains are low because those joints give 12 N m at most.
DESCRIPTION = ArmDescription(
    spec=SPEC,
    base=_BASE,
    links=_LINKS,
    hand=_HAND,
    stiffness=np.array([1200.0, 1200.0, 1000.0, 1000.0, 400.0, 300.0, 150.0]),
    damping=np.array([120.0, 120.0, 100.0, 100.0, 25.0, 20.0, 10.0]),
)
