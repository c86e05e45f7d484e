"""The control box's own safety functions: set from the rig on every start, and read back."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import xarm7
from ..errors import ConfigError, DeviceFault
from .xarm_link import NAME, XArmLink

MM = 1000.0


@dataclass(frozen=True)
class XArmSafetyCfg:
    """Collision detection, fence and reduced mode, as UFACTORY Studio calls them."""

    collision_sensitivity: int = 3
    """1 (dull) to 5; the payload must be set in UFACTORY Studio for it to mean anything."""
    collision_rebound: bool = False
    """Back off after a collision instead of just stopping."""
    self_collision: bool = True
    """Stop before the arm meets itself."""
    tool_model: int = 1
    """What is mounted, for self-collision: 0 nothing, 1 xArm gripper, 2 vacuum gripper, 4 Robotiq 2F-85, 5 2F-140."""
    fence_m: tuple[float, ...] = ()
    """Box that the tool centre point may not leave, base frame, m: x from, to, y from, to, z from, to; () is no fence."""
    reduced_mode: bool = True
    """Enforce the speeds and the joint range below."""
    reduced_tcp_speed_m_s: float = 0.5
    """Speed of the tool centre point, m/s; with people near, ISO 10218 has 0.25."""
    reduced_joint_speed_rad_s: float = 1.0
    """Speed of every joint, rad/s."""

    def __post_init__(self) -> None:
        if self.collision_sensitivity not in range(1, 6):
            raise ConfigError(f"collision_sensitivity must be 1 to 5, got {self.collision_sensitivity}")
        if self.tool_model not in range(6):
            raise ConfigError(f"tool_model must be 0 to 5, got {self.tool_model}")
        box = np.array(self.fence_m)
        if box.size and not (box.shape == (6,) and np.isfinite(box).all() and (box[::2] < box[1::2]).all()):
            raise ConfigError(f"fence_m must be x from, to, y from, to, z from, to in m, got {self.fence_m}")
        if not (0.0 < self.reduced_tcp_speed_m_s <= 1.0 and 0.0 < self.reduced_joint_speed_rad_s <= np.pi):
            raise ConfigError(f"an xArm moves at up to 1 m/s and 3.14 rad/s, got {self}")


def apply_safety(link: XArmLink, cfg: XArmSafetyCfg) -> None:
    """Set everything, and see that the control box has it. Raises DeviceFault if it has not."""
    boundary = [round(MM * cfg.fence_m[i]) for i in (1, 0, 3, 2, 5, 4)] if cfg.fence_m else None  # mm, upper end first
    joint_range = np.stack([xarm7.SPEC.q_min, xarm7.SPEC.q_max], axis=1).ravel().tolist()
    link.call("set_collision_sensitivity", cfg.collision_sensitivity)
    link.call("set_collision_rebound", cfg.collision_rebound)
    link.call("set_collision_tool_model", cfg.tool_model)
    link.call("set_self_collision_detection", cfg.self_collision)
    if boundary is not None:
        link.call("set_reduced_tcp_boundary", boundary)
    link.call("set_reduced_max_tcp_speed", MM * cfg.reduced_tcp_speed_m_s)
    link.call("set_reduced_max_joint_speed", cfg.reduced_joint_speed_rad_s, is_radian=True)
    link.call("set_reduced_joint_range", joint_range, is_radian=True)
    link.call("set_fence_mode", boundary is not None)
    link.call("set_reduced_mode", cfg.reduced_mode)

    reduced, box, tcp_speed, joint_speed, joints, fence, rebound = link.call("get_reduced_states", is_radian=True)
    pairs: list[tuple[str, Any, Any]] = [
        ("reduced mode", cfg.reduced_mode, bool(reduced)),
        ("speed of the tool, mm/s", MM * cfg.reduced_tcp_speed_m_s, tcp_speed),
        ("speed of the joints, rad/s", cfg.reduced_joint_speed_rad_s, joint_speed),
        ("range of the joints, rad", joint_range, joints),
        ("fence", boundary is not None, bool(fence)),
        ("rebound", cfg.collision_rebound, bool(rebound)),
    ]
    if boundary is not None:
        pairs.append(("fence's box, mm", boundary, box))
    for name, wanted, found in pairs:
        if not np.allclose(wanted, found, rtol=1e-3, atol=1e-3):
            raise DeviceFault(NAME, f"the control box did not take a safety setting: {name} is {found}, not {wanted}")
