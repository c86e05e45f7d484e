"""The model of a rig's arm that kinematics and collision checks share: a built-in one, or the file that the rig names."""

import mujoco

from .arm_description import ArmModel
from .arm_file import read_arm
from .errors import ConfigError
from .rig import ARMS, DESCRIPTIONS, ArmCfg
from .twin.arm_model import TCP_SITE, add_arm, fix_fingers


def has_model(arm: ArmCfg) -> bool:
    """Whether armflow knows more of the arm than its joint limits."""
    return arm.model in DESCRIPTIONS or arm.description is not None


def arm_model(arm: ArmCfg) -> ArmModel:
    """A new one, to add things to and to compile. Raises ConfigError if there is none, or if its file is wrong."""
    if arm.description is not None:
        return read_arm(arm.description, ARMS[arm.model])
    if arm.model not in DESCRIPTIONS:
        raise ConfigError(
            f"armflow has no model of the {arm.model}, only of: {', '.join(DESCRIPTIONS)}; "
            "name an MJCF or URDF of it in the rig's [arm.description]"
        )
    spec = mujoco.MjSpec()
    add_arm(spec, DESCRIPTIONS[arm.model])
    fix_fingers(spec)
    return ArmModel(spec, TCP_SITE, {geom.name: _depth(geom.parent) for geom in spec.geoms})


def _depth(body: mujoco.MjsBody) -> int:
    """How many bodies lie between this one and the world, it included."""
    return 0 if body.name == "world" else 1 + _depth(body.parent)
