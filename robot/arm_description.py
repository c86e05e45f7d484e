"""What an arm is made of: published kinematics and masses, and primitives that stand for its shape."""

from dataclasses import dataclass

import mujoco

from .types import ArmSpec, Floats

Vec = tuple[float, ...]
Capsule = tuple[Vec, Vec, float]  # from, to, radius, m
Box = tuple[Vec, Vec]  # centre, half lengths, m

IDENTITY = (1.0, 0.0, 0.0, 0.0)  # wxyz, as all quaternions here
X_MINUS_90, X_PLUS_90 = (0.70710678, -0.70710678, 0.0, 0.0), (0.70710678, 0.70710678, 0.0, 0.0)


@dataclass(frozen=True)
class Link:
    """One link: its joint frame in the parent, its inertia, and capsules that stand for its shape."""

    pos: Vec  # m, joint frame in the parent link; the joint turns about its z
    quat: Vec
    mass: float  # kg
    com: Vec  # m
    inertia_quat: Vec  # principal axes
    inertia: Vec  # kg m^2, about them
    capsules: tuple[Capsule, ...]
    armature: float  # kg m^2, reflected rotor inertia


@dataclass(frozen=True)
class Hand:
    """A gripper whose two fingers slide apart along its y axis; boxes are in the hand's frame, a finger's in its own.

    A finger's boxes are those of the left one, closed; the right one mirrors them. The pad's inner face is at y = 0.
    """

    pos: Vec  # m, in the last link
    quat: Vec
    mass: float  # kg
    com: Vec  # m
    inertia: Vec  # kg m^2, about the hand's axes
    boxes: tuple[Box, ...]
    tcp_z: float  # m, from the hand's frame to the tool centre point
    finger_z: float  # m, from the hand's frame to a finger's
    finger_mass: float  # kg
    finger_inertia: Vec  # kg m^2
    finger: Box
    pad: Box
    travel: float  # m per finger
    speed: float  # m/s per finger
    force: float  # N per finger


@dataclass(frozen=True, eq=False)
class ArmDescription:
    """All that twin, kinematics and collision model need of an arm. `twin/arm_model.py` builds it."""

    spec: ArmSpec
    base: tuple[Capsule, ...]
    links: tuple[Link, ...]  # one per joint
    hand: Hand
    stiffness: Floats  # (dof,) N m/rad, of the joint servos in the twin
    damping: Floats  # (dof,) N m s/rad


@dataclass(frozen=True, eq=False)
class ArmModel:
    """An arm for kinematics and collisions: its joints in the order of its ArmSpec, nothing else that moves, no servos."""

    spec: mujoco.MjSpec  # to be compiled by whoever asked for it; its shapes touch nothing but in explicit pairs
    tool: str  # site of the tool centre point
    links: dict[str, int]
    """Shape -> number of its link; 1 is the base, and what is rigidly joined to a link may count on."""
