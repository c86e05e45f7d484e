"""What a LeRobot robot is to us: its type, its joints in our order, its units; and LeRobot's own objects made from that."""

import importlib
import math
import pkgutil
import tomllib
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..interpolator import MotionLimits
from ..servo import ServoCfg
from ..types import ArmSpec

INSTALL = 'pip install "armflow[openarm]"'


@dataclass(frozen=True)
class LeRobotArmCfg:
    """One robot that LeRobot knows, and how it is driven. Plain values: a section of a rig file can hold it."""

    type: str
    """LeRobot's name of it, such as openarm_follower."""
    joints: tuple[str, ...]
    """LeRobot's name of each of our joints, in the order of the arm's spec."""
    gripper_closed: float
    """Position of the closed gripper, in LeRobot's unit."""
    gripper_open: float
    """Position of the open gripper, in LeRobot's unit."""
    gripper: str = "gripper"
    """LeRobot's name of the gripper's motor."""
    port: str = ""
    """CAN channel such as can0, or serial port."""
    interface: str = ""
    """python-can's interface: socketcan, slcan, virtual. Empty is LeRobot's default; only robots on CAN have one."""
    side: str = ""
    """left or right, for robots that differ."""
    id: str = ""
    """Under this name LeRobot keeps the robot's calibration."""
    calibration_dir: str = ""
    """Folder of the calibration; empty is LeRobot's."""
    options: tuple[str, ...] = ()
    """Further fields of LeRobot's config, each as a line of TOML: "use_degrees = true"."""
    deg_per_unit: tuple[float, ...] = ()
    """Degrees for one LeRobot unit, per joint, negative if it counts the other way; empty: its units are degrees."""
    zero_deg: tuple[float, ...] = ()
    """Our angle where LeRobot reads 0, per joint, degrees; empty: 0."""
    servo: ServoCfg = field(default_factory=lambda: ServoCfg(hz=100.0))
    """Rate of exchanges with the motors (a target out, a reading in), and for how long a target counts as fresh."""
    speed_scale: float = 0.6
    """Fraction of the joints' speed; not less than the safety filter's, or the arm falls behind."""
    acceleration_scale: float = 0.4
    """Fraction of the joints' acceleration."""
    jerk_max: float = 100.0
    """Most jerk of a joint, rad/s^3."""
    gripper_speed: float = 2.0
    """Most change of the opening, 1/s."""
    gripper_lead: float = 0.1
    """The gripper's target is at most this far from where it is, 0..1: it bounds how hard a P controller grips."""
    joint_margin_rad: float = 0.05
    """Distance kept from each end of the joint range, rad."""
    range_tolerance_rad: float = 0.05
    """A position measured further outside of the joint range than this is a fault, rad."""
    max_lag_rad: float = 0.3
    """A joint that stays further behind its target than this for `max_lag_s` is a fault: blocked, or frozen readings."""
    max_lag_s: float = 0.3
    max_age_s: float = 0.1
    """An older reading is a StaleReading and the arm brakes, s."""
    fault_age_s: float = 0.5
    """An older reading is a DeviceFault, s."""
    torque_off_on_exit: bool = False
    """Whether the motors let go when the context is left: an arm that does not rest on something falls."""

    def __post_init__(self) -> None:
        count = len(self.joints)
        if count == 0 or len({*self.joints, self.gripper}) != count + 1:
            raise ConfigError(f"joints and gripper must be names that differ, got {self.joints} and {self.gripper}")
        for name in ("deg_per_unit", "zero_deg"):
            values = getattr(self, name)
            if len(values) not in (0, count) or not all(math.isfinite(v) for v in values):
                raise ConfigError(f"{name} must be {count} finite numbers, or none, got {values}")
        if 0.0 in self.deg_per_unit:
            raise ConfigError(f"deg_per_unit must not be 0, got {self.deg_per_unit}")
        if not (math.isfinite(self.gripper_closed) and math.isfinite(self.gripper_open)) or (
            self.gripper_closed == self.gripper_open
        ):
            raise ConfigError("gripper_closed and gripper_open must be two different positions of the gripper")
        for name in ("speed_scale", "acceleration_scale", "gripper_lead"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} must be in (0, 1], got {getattr(self, name)}")
        for name in ("jerk_max", "gripper_speed", "max_lag_rad", "max_lag_s", "max_age_s", "fault_age_s"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("joint_margin_rad", "range_tolerance_rad"):
            if not 0.0 <= getattr(self, name) < 0.5:
                raise ConfigError(f"{name} must be in [0, 0.5), got {getattr(self, name)}")
        if not self.max_age_s < self.fault_age_s:
            raise ConfigError(f"max_age_s {self.max_age_s} must be less than fault_age_s {self.fault_age_s}")

    def limits(self, spec: ArmSpec) -> MotionLimits:
        """What the reference never exceeds: the joints, then the gripper's opening."""
        return MotionLimits(
            q_min=np.append(spec.q_min + self.joint_margin_rad, 0.0),
            q_max=np.append(spec.q_max - self.joint_margin_rad, 1.0),
            dq_max=np.append(self.speed_scale * spec.dq_max, self.gripper_speed),
            ddq_max=np.append(self.acceleration_scale * spec.ddq_max, 10.0 * self.gripper_speed),
            jerk_max=np.append(np.full(spec.dof, self.jerk_max), 200.0 * self.gripper_speed),
        )


def openarm(port: str, side: str, *, interface: str = "socketcan", id: str = "") -> LeRobotArmCfg:
    """One arm of an OpenArm as LeRobot calibrates it: degrees, gripper closed at 0 and open at -65."""
    return LeRobotArmCfg(
        type="openarm_follower",
        joints=tuple(f"joint_{i}" for i in range(1, 8)),
        gripper_closed=0.0,
        gripper_open=-65.0,
        port=port,
        interface=interface,
        side=side,
        id=id,
    )


def robot_config(cfg: LeRobotArmCfg) -> Any:
    """LeRobot's own config (lerobot.robots.RobotConfig) of any type that is registered with it, plugins included.

    Raises ConfigError naming the types, or the fields of this type, that there are.
    """
    import draccus

    kind = _registered(cfg.type)
    known = {f.name for f in fields(kind)}
    try:
        values = tomllib.loads("\n".join(cfg.options))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"options of {cfg.type} must be lines of TOML, got {list(cfg.options)}: {error}") from None
    if "cameras" in values:
        raise ConfigError(f"options of {cfg.type}: cameras belong in the rig's [[cameras]], armflow reads them itself")
    if "use_velocity_and_torque" in known:
        values.setdefault("use_velocity_and_torque", True)
    named = {"port": cfg.port, "can_interface": cfg.interface, "side": cfg.side, "id": cfg.id,
             "calibration_dir": cfg.calibration_dir}  # fmt: skip
    values |= {key: value for key, value in named.items() if value}
    if "disable_torque_on_disconnect" in known:
        values["disable_torque_on_disconnect"] = cfg.torque_off_on_exit
    elif not cfg.torque_off_on_exit:
        raise ConfigError(f"{cfg.type} always does the same on exit; look up what, and set torque_off_on_exit = true")
    if unknown := sorted(set(values) - known):
        raise ConfigError(f"{cfg.type} has no {', '.join(unknown)}; it has: {', '.join(sorted(known - {'cameras'}))}")
    try:
        return draccus.decode(kind, values)
    except (draccus.ParsingError, ValueError, TypeError) as error:
        raise ConfigError(f"LeRobot refuses the config of {cfg.type}: {error}") from error


def make_robot(cfg: LeRobotArmCfg) -> Any:
    """lerobot.robots.Robot, not connected. Raises ConfigError, also if what its motors need is not installed."""
    from lerobot.robots import make_robot_from_config

    config = robot_config(cfg)
    try:
        return make_robot_from_config(config)
    except ImportError as error:
        raise ConfigError(f"{cfg.type} needs a package that is not installed ({error}); {INSTALL}") from error
    except (ValueError, TypeError, OSError) as error:
        raise ConfigError(f"LeRobot cannot make a {cfg.type}: {error}") from error


def _registered(kind: str) -> Any:
    """The config class; importing a robot's package is what registers it."""
    import lerobot.robots
    from lerobot.utils.import_utils import register_third_party_plugins

    registry = lerobot.robots.RobotConfig
    if kind not in registry.get_known_choices():
        for module in pkgutil.iter_modules(lerobot.robots.__path__, "lerobot.robots."):
            if module.ispkg:
                importlib.import_module(module.name)
    if kind not in registry.get_known_choices():
        register_third_party_plugins()
    if kind not in registry.get_known_choices():
        types = ", ".join(sorted(registry.get_known_choices()))
        raise ConfigError(f"LeRobot knows no robot type '{kind}'; it knows: {types}")
    return registry.get_choice_class(kind)
