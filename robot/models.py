"""The model of a rig's arm that kinematics and collision checks share."""

import mujoco

from .arm_description import ArmModel
from .errors import ConfigError
from .rig import DESCRIPTIONS, ArmCfg
from .twin.arm_model import TCP_SITE, add_arm, fix_fingers


def has_model(arm: ArmCfg) -> bool:
    """Whether armflow knows more of the arm than its joint limits."""
    return arm.model in DESCRIPTIONS


def arm_model(arm: ArmCfg) -> ArmModel:
    """A new one, to add things to and to compile. Raises ConfigError if there is none."""
    if arm.model not in DESCRIPTIONS:
        raise ConfigError(f"armflow has no model of the {arm.model}, only of: {', '.join(DESCRIPTIONS)}")
    spec = mujoco.MjSpec()
    add_arm(spec, DESCRIPTIONS[arm.model])
    fix_fingers(spec)
    return ArmModel(spec, TCP_SITE, {geom.name: _depth(geom.parent) for geom in spec.geoms})


def _depth(body: mujoco.MjsBody) -> int:
    """How many bodies lie between this one and the world, it included."""
    return 0 if body.name == "world" else 1 + _depth(body.parent)
