"""UFACTORY xArm7 with an xArm Gripper: published kinematics, masses and limits (UFACTORY user manual and `xarm_description`;
the joint ranges that its SDK enforces).

Arms with serial numbers from XI1305 on have narrower ranges of joints 2 and 4 than those before; these fit every xArm7.
"""

import numpy as np

from .arm_description import IDENTITY, X_MINUS_90, X_PLUS_90, ArmDescription, Hand, Link
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

# Capsules enclose the vendor's meshes, flat ends included.
_BASE = (((0.0, 0.0, 0.014), (0.0, 0.0, 0.112), 0.067), ((-0.075, 0.0, 0.026), (-0.04, 0.0, 0.026), 0.03))

_LINKS = (
    Link((0, 0, 0.267), IDENTITY, 2.382, (-0.0002, 0.02905, -0.01233),
         (0.978953, -0.202769, -0.00441617, -0.0227264), (0.00569127, 0.00533384, 0.00293865),
         (((0, 0, -0.094), (0, -0.013, -0.054), 0.053), ((0, -0.014, -0.007), (0, 0.049, 0), 0.056)), 0.1),
    Link((0, 0, 0), X_MINUS_90, 1.869, (0.00022, -0.12856, 0.01735),
         (0.50198, 0.86483, -0.00778841, 0.00483285), (0.00959898, 0.00937717, 0.00201315),
         (((0, -0.001, 0.086), (0, -0.109, 0.081), 0.052), ((0, -0.109, 0.017), (0, -0.145, 0), 0.065)), 0.1),
    Link((0, -0.293, 0), X_PLUS_90, 1.6383, (0.0466, -0.02463, -0.00768),
         (0.913819, 0.289775, 0.281481, -0.0416455), (0.00351721, 0.00294089, 0.00195868),
         (((0, 0, -0.085), (0.01, 0.032, -0.022), 0.047), ((0.052, -0.048, 0), (0.045, 0.034, 0.002), 0.049)), 0.1),
    Link((0.0525, 0, 0), X_PLUS_90, 1.7269, (0.07047, -0.11575, 0.012),
         (0.422108, 0.852026, -0.126025, 0.282832), (0.00657137, 0.00647948, 0.00186763),
         (((0.003, -0.005, 0.075), (0.077, -0.082, 0.064), 0.052),
          ((0.08, -0.083, 0.005), (0.078, -0.144, 0), 0.051)), 0.1),
    Link((0.0775, -0.3425, 0), X_PLUS_90, 1.3203, (-0.00032, 0.01604, -0.026),
         (0.999311, -0.0304457, 0.000577067, 0.0212082), (0.00534729, 0.00499076, 0.0013489),
         (((0, 0, -0.158), (0, 0.045, -0.109), 0.048), ((0, 0.055, -0.049), (0, 0.038, 0), 0.053)), 0.1),
    Link((0, 0, 0), X_PLUS_90, 1.325, (0.06469, 0.03278, 0.02141),
         (-0.217672, 0.772419, 0.16258, 0.574069), (0.00245421, 0.00221646, 0.00107273),
         (((0, 0, 0.019), (0.021, 0.001, 0.026), 0.047), ((0.076, -0.012, 0.001), (0.076, 0.058, 0), 0.042)), 0.1),
    Link((0.076, 0.097, 0), X_MINUS_90, 0.17, (0, -0.00677, -0.01098),
         (0.487612, 0.512088, -0.512088, 0.487612), (0.000132176, 9.3e-05, 5.85236e-05),
         (((0, 0, -0.014), (0, -0.013, -0.014), 0.041),), 0.1),
)  # fmt: skip

# The real fingers hang on a linkage: they stay parallel, and their tips are 12 mm further back when open. Here they slide
# straight, where the closed ones are; the second box is what the linkage sweeps.
_HAND = Hand(
    pos=(0.0, 0.0, 0.0),
    quat=IDENTITY,
    mass=0.54156,
    com=(0.00065, 0.00185, 0.048),
    inertia=(0.00047, 0.00033, 0.00026),
    boxes=(((0.0, 0.0, 0.052), (0.03, 0.051, 0.052)), ((0.0, 0.0, 0.079), (0.014, 0.087, 0.028))),
    tcp_z=0.172,
    finger_z=0.107,
    finger_mass=0.105,
    finger_inertia=(5e-5, 5e-5, 1e-5),
    finger=((0.0, 0.018, 0.014), (0.0105, 0.015, 0.014)),
    pad=((0.0, 0.0075, 0.047), (0.016, 0.0075, 0.0205)),
    travel=0.042,
    speed=0.1,  # nothing is published: the FR3's
    force=30.0,  # the vendor's maximum
)

# A stiff position servo, as the control box closes it.
DESCRIPTION = ArmDescription(
    spec=SPEC,
    base=_BASE,
    links=_LINKS,
    hand=_HAND,
    stiffness=np.array([4000.0, 4000.0, 2500.0, 2500.0, 1500.0, 1500.0, 800.0]),
    damping=np.array([300.0, 300.0, 180.0, 180.0, 80.0, 80.0, 40.0]),
)
