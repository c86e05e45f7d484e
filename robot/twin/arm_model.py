"""An arm as an mjSpec: published kinematics and masses, drawn with capsules so that a software renderer is fast."""

import mujoco
import numpy as np

from ..arm_description import ArmDescription, Box, Capsule, Hand, Link, Vec

# Contact bits. Robot parts touch table and objects, never each other. Walls of two vessels never touch directly (thin
# boxes nested in thin boxes chatter): each vessel carries small knobs that touch the other's walls.
WORLD_BIT, ROBOT_BIT, VESSEL_BIT, KNOB_BIT = 1, 2, 4, 8
OFF_WHITE, DARK = (0.92, 0.93, 0.94, 1.0), (0.2, 0.2, 0.22, 1.0)
PAD_FRICTION = (1.2, 0.02, 0.002)  # rubber pads: slide, torsion (m), roll (m)
PAD_SOLREF, PAD_SOLIMP = (0.005, 1.0), (0.97, 0.995, 0.001, 0.5, 2.0)  # stiff: a soft pad lets a squeezed fruit pop out
TCP_SITE, FINGERS = "tcp", ("finger_left", "finger_right")
FINGER_STIFFNESS, FINGER_DAMPING = 4000.0, 80.0  # N/m, N s/m: saturates at the grasp force within 8 mm


def add_arm(spec: mujoco.MjSpec, arm: ArmDescription) -> None:
    """Add base, links, hand, fingers, servos and the `tcp` site to the world body of `spec`."""
    spec.compiler.degree = False
    parent = spec.worldbody.add_body(name="base")
    for i, capsule in enumerate(arm.base):
        _capsule(parent, f"base_{i}", capsule, OFF_WHITE)
    for i, link in enumerate(arm.links):
        parent = _add_link(parent, i, link, arm)
    _add_hand(parent, arm.hand)
    for i, joint in enumerate(arm.spec.joint_names):
        _position_servo(spec, joint, arm.stiffness[i], arm.damping[i], arm.spec.tau_max[i])
    for finger in FINGERS:
        _position_servo(spec, finger, FINGER_STIFFNESS, FINGER_DAMPING, arm.hand.force)


def fix_fingers(spec: mujoco.MjSpec) -> None:
    """Leave the fingers of `add_arm` closed, without joints and servos."""
    for finger in FINGERS:
        spec.delete(spec.actuator(finger))
        spec.delete(spec.joint(finger))


def _add_link(parent: mujoco.MjsBody, index: int, link: Link, arm: ArmDescription) -> mujoco.MjsBody:
    body = parent.add_body(name=f"link{index + 1}", pos=link.pos, quat=link.quat, gravcomp=1)
    body.explicitinertial = True
    body.mass, body.ipos, body.iquat, body.inertia = link.mass, link.com, link.inertia_quat, link.inertia
    body.add_joint(
        name=arm.spec.joint_names[index],
        axis=(0, 0, 1),
        range=(arm.spec.q_min[index], arm.spec.q_max[index]),
        limited=mujoco.mjtLimited.mjLIMITED_TRUE,
        armature=link.armature,
    )
    for i, capsule in enumerate(link.capsules):
        _capsule(body, f"link{index + 1}_{i}", capsule, OFF_WHITE if i == 0 else DARK)
    return body


def _capsule(body: mujoco.MjsBody, name: str, capsule: Capsule, rgba: Vec) -> None:
    start, end, radius = capsule
    body.add_geom(
        name=name,
        type=mujoco.mjtGeom.mjGEOM_CAPSULE,
        fromto=(*start, *end),
        size=(radius, 0, 0),
        rgba=rgba,
        contype=ROBOT_BIT,
        conaffinity=WORLD_BIT | VESSEL_BIT,
        mass=0,
    )


def _add_hand(flange: mujoco.MjsBody, hand: Hand) -> None:
    palm = flange.add_body(name="hand", pos=hand.pos, quat=hand.quat, gravcomp=1)
    palm.explicitinertial = True
    palm.mass, palm.ipos, palm.inertia = hand.mass, hand.com, hand.inertia
    for i, box in enumerate(hand.boxes):
        _box(palm, "hand" if i == 0 else f"hand_{i}", box, OFF_WHITE if i == 0 else DARK)
    palm.add_site(name=TCP_SITE, pos=(0, 0, hand.tcp_z), size=(0.005, 0, 0), rgba=(0, 0, 0, 0))
    for name, sign in zip(FINGERS, (1.0, -1.0), strict=True):
        finger = palm.add_body(name=name, pos=(0, 0, hand.finger_z), gravcomp=1)
        finger.explicitinertial = True
        finger.mass, finger.inertia = hand.finger_mass, hand.finger_inertia
        finger.add_joint(
            name=name,
            type=mujoco.mjtJoint.mjJNT_SLIDE,
            axis=(0, sign, 0),
            range=(0, hand.travel),
            limited=mujoco.mjtLimited.mjLIMITED_TRUE,
            armature=0.1,  # kg: the spindle drive; keeps contact with a heavy hand stable at 2 ms
        )
        _box(finger, f"{name}_body", _mirrored(hand.finger, sign), DARK)
        pad = _box(finger, f"{name}_pad", _mirrored(hand.pad, sign), DARK)
        pad.friction, pad.condim, pad.priority = PAD_FRICTION, 4, 1  # the pad decides how a contact with it behaves
        pad.solref, pad.solimp = PAD_SOLREF, PAD_SOLIMP


def _mirrored(box: Box, sign: float) -> Box:
    (x, y, z), half = box
    return (x, sign * y, z), half


def _box(body: mujoco.MjsBody, name: str, box: Box, rgba: Vec) -> mujoco.MjsGeom:
    centre, half = box
    return body.add_geom(
        name=name,
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=centre,
        size=half,
        rgba=rgba,
        contype=ROBOT_BIT,
        conaffinity=WORLD_BIT | VESSEL_BIT,
        mass=0,
    )


def _position_servo(spec: mujoco.MjSpec, joint: str, kp: float, kd: float, limit: float) -> None:
    """Actuator on `joint`: force = kp (ctrl - q) - kd dq, clipped to +-limit; ctrl = q_des + kd/kp dq_des gives dq feed-forward."""
    actuator = spec.add_actuator(name=joint, target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT)
    actuator.gaintype, actuator.biastype = mujoco.mjtGain.mjGAIN_FIXED, mujoco.mjtBias.mjBIAS_AFFINE
    actuator.gainprm = np.array([kp, *np.zeros(9)])
    actuator.biasprm = np.array([0.0, -kp, -kd, *np.zeros(7)])
    actuator.forcelimited, actuator.forcerange = mujoco.mjtLimited.mjLIMITED_TRUE, (-limit, limit)
