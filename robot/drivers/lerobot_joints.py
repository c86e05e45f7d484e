"""Between LeRobot's dicts in its units and our vectors in SI: by name, in the order that the configuration gives."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from ..types import ArmSpec, Floats
from .lerobot_config import LeRobotArmCfg


@dataclass(frozen=True, eq=False)
class Measured:
    """What one observation says; None is what this robot does not measure."""

    q: Floats  # rad
    dq: Floats | None  # rad/s
    effort: Floats | None  # N m
    opening: float  # 0 closed .. 1 open, not clipped


class JointMap:
    """q = zero + rad_per_unit * u for every joint; opening = (u - closed) / (open - closed)."""

    def __init__(self, cfg: LeRobotArmCfg, spec: ArmSpec) -> None:
        """Raises ConfigError if `cfg` does not name one LeRobot joint for each joint of `spec`."""
        if len(cfg.joints) != spec.dof:
            raise ConfigError(
                f"joints names {len(cfg.joints)} joints, {spec.name} has {spec.dof}: {', '.join(spec.joint_names)}"
            )
        self.motors = (*cfg.joints, cfg.gripper)
        self._joints, self._gripper = cfg.joints, cfg.gripper
        self._rad_per_unit = np.radians(cfg.deg_per_unit or np.ones(spec.dof))
        self._zero = np.radians(cfg.zero_deg or np.zeros(spec.dof))
        self._closed, self._stroke = cfg.gripper_closed, cfg.gripper_open - cfg.gripper_closed

    def check(self, features: Mapping[str, object]) -> None:
        """Raises ConfigError unless the robot's motors are exactly those that are mapped."""
        there = {key.removesuffix(".pos") for key in features if key.endswith(".pos")}
        if there != set(self.motors):
            raise ConfigError(
                f"joints and gripper name {', '.join(self.motors)}; LeRobot's robot has {', '.join(sorted(there))}"
            )

    def check_range(self, spec: ArmSpec, limits: Mapping[str, tuple[float, float]] | None) -> None:
        """Raises ConfigError if LeRobot clips targets (`limits`, in its units) that `spec` allows."""
        ends = (self.action(spec.q_min, 0.0), self.action(spec.q_max, 1.0))
        for motor, (low, high) in (limits or {}).items():
            wanted = [end[f"{motor}.pos"] for end in ends]
            if min(wanted) < low - 0.01 or max(wanted) > high + 0.01:
                raise ConfigError(
                    f"LeRobot clips {motor} to {low}..{high}, {spec.name} goes from {wanted[0]:.1f} to {wanted[1]:.1f}; "
                    "set `side` to that of the arm's model, or joint_limits in `options`"
                )

    def action(self, q: Floats, opening: float) -> dict[str, float]:
        """LeRobot's action for joint targets (dof,) rad and an opening of 0..1."""
        units = (q - self._zero) / self._rad_per_unit
        action = {f"{name}.pos": float(u) for name, u in zip(self._joints, units, strict=True)}
        return {**action, f"{self._gripper}.pos": self._closed + self._stroke * float(opening)}

    def measured(self, observation: Mapping[str, float]) -> Measured:
        return Measured(
            q=self._zero + self._rad_per_unit * self._values(observation, "pos"),
            dq=self._rad_per_unit * self._values(observation, "vel") if self._has(observation, "vel") else None,
            effort=np.sign(self._rad_per_unit) * self._values(observation, "torque")
            if self._has(observation, "torque")
            else None,
            opening=(float(observation[f"{self._gripper}.pos"]) - self._closed) / self._stroke,
        )

    def _has(self, observation: Mapping[str, float], what: str) -> bool:
        return all(f"{name}.{what}" in observation for name in self._joints)

    def _values(self, observation: Mapping[str, float], what: str) -> Floats:
        return np.array([observation[f"{name}.{what}"] for name in self._joints], dtype=np.float64)
